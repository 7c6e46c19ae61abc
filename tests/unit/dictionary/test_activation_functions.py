"""Every activation function finds what was planted, with the L0 that it promises."""

import numpy as np
import pytest
import torch
from planted_stores import D_MODEL, N_ACTIVE, crosscoder_sites, matched_cosines, write_store
from planted_training import READS, TRAIN, WINDOW, train

from deepseemoe.activations.store import ActivationStore
from deepseemoe.dictionary.batches import valid_blocks
from deepseemoe.dictionary.evaluate import stored_metrics
from deepseemoe.dictionary.gates import PerFeature, TopK, Weighted
from deepseemoe.dictionary.site_names import site_names

FUNCTIONS = {
    "topk": {"activation": "topk"},
    "jumprelu": {"activation": "jumprelu", "init_norm": 0.5},
    "relu": {"activation": "relu"},
    "batch_topk, unit decoders and pre_bias": {"decoder_norm": "unit", "pre_bias": True},
    "batch_topk, matryoshka": {"prefixes": (0.25, 0.5)},
}
GATES = {"topk": TopK, "jumprelu": PerFeature, "relu": Weighted}


@pytest.fixture(scope="module")
def trained(crosscoder_world, tmp_path_factory):
    """Return a function that trains with an activation function, each once."""
    *stores, select, _ = crosscoder_world
    found = {}

    def of(name):
        if name not in found:
            folder = tmp_path_factory.mktemp("trained") / "L00-L01"
            settings = {**TRAIN, "d_dict": 64, "k": 3, **FUNCTIONS[name]}
            found[name] = train(stores, [select], folder, **settings)
        return found[name]

    return of


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_planted_directions_are_recovered_at_every_layer(name, trained):
    dictionary = trained(name)
    assert isinstance(dictionary.gate, GATES.get(name, Weighted))
    for layer in range(2):
        cosines = matched_cosines(dictionary.decoder_FLD[:, layer].numpy(), READS[:, layer])
        assert cosines.mean() > 0.9


@pytest.mark.parametrize("name", FUNCTIONS)
def test_l0_on_unseen_tokens_is_what_was_asked_for(name, trained, crosscoder_world):
    found = stored_metrics(trained(name), [ActivationStore(crosscoder_world[3])])
    assert found["l0"] == pytest.approx(trained(name).l0, rel=0.02)
    if name == "topk":
        assert 2.9 < found["l0"] <= 3  # tokens without a planted feature have fewer
    elif name == "relu":
        assert found["l0"] == pytest.approx(N_ACTIVE, rel=0.5)  # it has no k
    else:
        assert found["l0"] == pytest.approx(3, rel=0.1 if name == "jumprelu" else 0.02)


def test_topk_keeps_k_of_each_token_and_no_more(trained, crosscoder_world):
    dictionary = trained("topk")
    names = site_names("resid_post", WINDOW)
    x = next(valid_blocks(ActivationStore(crosscoder_world[3]), names))
    counts = np.diff(dictionary.encode(x).offsets)
    assert counts.max() == 3
    assert (counts == 3).mean() > 0.9


def test_pre_bias_is_folded_into_what_is_saved(trained, crosscoder_world):
    """Otherwise features would fire on another input than in training, and fit far worse."""
    found = stored_metrics(
        trained("batch_topk, unit decoders and pre_bias"), [ActivationStore(crosscoder_world[3])]
    )
    assert max(found["fvu"]) < 0.15


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_is_recovered_from_noise(name, tmp_path):
    rng = np.random.default_rng(9)
    noise = {
        site: rng.standard_normal((4096, D_MODEL)) for site in site_names("resid_post", WINDOW)
    }
    path = write_store(tmp_path / "noise.zarr", noise)
    settings = {**TRAIN, "n_tokens": 25_000, "d_dict": 64, "k": 3, **FUNCTIONS[name]}
    dictionary = train([path], [path], tmp_path / "out", **settings)
    for layer in range(2):
        cosines = matched_cosines(dictionary.decoder_FLD[:, layer].numpy(), READS[:, layer])
        assert (cosines > 0.9).sum() == 0
        assert cosines.mean() < 0.7


def zipf_codes(n_tokens, seed):
    """Return strengths (T, F) of features of which the first are by far the most frequent."""
    rng = np.random.default_rng([seed, 2])
    share_F = 1 / (1 + np.arange(len(READS)) / 4)
    is_active = rng.random((n_tokens, len(READS))) < N_ACTIVE * share_F / share_F.sum()
    return is_active * rng.uniform(0.7, 1.3, is_active.shape)


def test_a_matryoshka_prefix_reconstructs_better_than_that_of_a_plain_dictionary(tmp_path):
    path, select = (
        write_store(tmp_path / f"{seed}.zarr", crosscoder_sites(zipf_codes(n, seed), READS))
        for seed, n in enumerate((12_288, 4096))
    )
    x = torch.from_numpy(
        next(valid_blocks(ActivationStore(select), site_names("resid_post", WINDOW)))
    )

    def error_of_prefix(name, **settings):
        dictionary = train(
            [path], [select], tmp_path / name, **{**TRAIN, "d_dict": 64, "k": 3, **settings}
        )
        entries = dictionary.entries(x)
        is_held = entries.features < 16
        prefix = type(entries)(*(part[is_held] for part in entries))
        y_TLD = dictionary.writing.apply(dictionary.reconstruct(prefix, n_tokens=len(x)))
        return float((y_TLD - dictionary.writing.apply(x)).square().mean())

    plain = error_of_prefix("plain")
    matryoshka = error_of_prefix("matryoshka", prefixes=(0.25, 0.5))
    assert matryoshka < 0.7 * plain
