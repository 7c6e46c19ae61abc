"""Skip transcoders take up what is linear; pre/post ones tell who wrote a feature."""

import numpy as np
import pytest
import torch
from planted_stores import (
    D_MODEL,
    directions,
    sparse_codes,
    transcoder_sites,
    write_store,
)
from planted_training import READS, TRAIN, WRITES, train

from deepseemoe.activations.store import ActivationStore
from deepseemoe.dictionary.evaluate import stored_metrics
from deepseemoe.names import Window

MAP_DLD = directions(2, seed=5)[:D_MODEL]
"""What the linear part of each layer adds to moe_out for each channel of moe_in."""


def linear_sites(n_tokens, seed):
    """Return a transcoder's world in which layers also pass on a dense signal, by a map."""
    codes = np.stack([sparse_codes(n_tokens, 10 * seed + layer) for layer in (0, 1)], axis=1)
    sites = transcoder_sites(codes, READS, WRITES, seed=seed)
    rng = np.random.default_rng([seed, 9])
    for layer in (0, 1):
        dense_TD = rng.standard_normal((n_tokens, D_MODEL))
        sites[f"moe_in/L{layer:02d}"] += dense_TD
        sites[f"moe_out/L{layer:02d}"] += 0.1 * dense_TD @ MAP_DLD[:, layer]
    return sites


@pytest.fixture(scope="module")
def linear_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("linear")
    return [
        write_store(folder / f"{seed}.zarr", linear_sites(n_tokens, seed))
        for seed, n_tokens in enumerate((12_288, 4096, 4096))
    ]


def test_a_skip_transcoder_learns_the_linear_part_and_fits_better(linear_world, tmp_path):
    store, select, test = linear_world
    settings = {**TRAIN, "kind": "transcoder", "d_dict": 64, "k": 6, "n_tokens": 60_000}
    without, found = (
        train([store], [select], tmp_path / str(skip), skip=skip, **settings)
        for skip in (False, True)
    )
    stores = [ActivationStore(test)]
    plain, skipping = (stored_metrics(d, stores)["fvu"] for d in (without, found))
    assert all(mine < 0.75 * theirs for mine, theirs in zip(skipping, plain, strict=True))
    for layer in (0, 1):
        scale = found.reading.scale_L[layer] / found.writing.scale_L[layer]
        raw_DD = (found.weights.skips[layer] * scale).numpy()
        planted_DD = 0.1 * MAP_DLD[:, layer].T
        assert np.corrcoef(raw_DD.ravel(), planted_DD.ravel())[0, 1] > 0.9
    assert without.weights.skips == ()


N_PLANTED = 24
SIDES = ([1.0, 0.0], [1.0, 1.0], [0.3, 1.0])
"""Strength in moe_in and in moe_out of features: router-side, relayed, written by experts."""
STRENGTHS = np.repeat(SIDES, N_PLANTED // 3, axis=0)


def pre_post_sites(n_tokens, seed):
    """Return moe_in and moe_out in which some features are on one side only."""
    rng = np.random.default_rng([seed, 4])
    is_active = rng.random((n_tokens, N_PLANTED)) < 2 / N_PLANTED
    codes_TF = is_active * rng.uniform(0.7, 1.3, is_active.shape)
    sides = []
    for strength_F, written_FD in zip(STRENGTHS.T, planted_sides(), strict=True):
        noise_TD = 0.005 * rng.standard_normal((n_tokens, D_MODEL))
        sides.append((codes_TF * strength_F) @ written_FD + noise_TD)
    return {"moe_in/L00": 3.0 * sides[0], "moe_out/L00": 0.2 * sides[1]}


def planted_sides():
    """Return the orthogonal unit directions of features in moe_in and in moe_out."""
    rng = np.random.default_rng(6)
    return [np.linalg.qr(rng.standard_normal((D_MODEL, N_PLANTED)))[0] for _ in range(2)]


def test_pre_post_tells_router_side_relayed_and_expert_written_features_apart(tmp_path):
    store, select, test = (
        write_store(tmp_path / f"{seed}.zarr", pre_post_sites(n_tokens, seed))
        for seed, n_tokens in enumerate((12_288, 4096, 4096))
    )
    settings = {**TRAIN, "kind": "transcoder", "d_dict": 40, "k": 2, "init_norm": 1.0}
    settings |= {"window": Window(0, 0), "reconstruct_input": True}
    dictionary = train([store], [select], tmp_path / "out", **settings)
    metrics = stored_metrics(dictionary, [ActivationStore(test)])
    assert metrics["fvu"][0] < 0.1
    assert metrics["fvu_inputs"][0] < 0.1

    scale = dictionary.writing.scale_L.numpy() * [3.0, 0.2]
    planted_FSD = np.stack(planted_sides(), 1) * (STRENGTHS * scale)[:, :, None]
    found_FSD = dictionary.weights.decoders[0].view(-1, 2, D_MODEL).numpy()
    cosine = cosines(found_FSD, planted_FSD)
    is_matched = cosine.max(1) > 0.9
    assert is_matched.reshape(3, -1).mean(1).min() > 0.8
    found = share_of_output(found_FSD)[cosine.argmax(1)]
    planted = share_of_output(planted_FSD)
    assert np.abs(found - planted)[is_matched].max() < 0.05
    router_side, relayed, written = (found[is_matched & (s == STRENGTHS).all(1)] for s in SIDES)
    assert router_side.max() < 0.1 < 0.4 < relayed.min()
    assert relayed.max() < 0.6 < 0.7 < written.min()


def cosines(found_FSD, planted_FSD):
    found, planted = (
        torch.nn.functional.normalize(torch.from_numpy(part).flatten(1).double(), dim=1)
        for part in (found_FSD, planted_FSD)
    )
    return (planted @ found.t()).numpy()


def share_of_output(written_FSD):
    """Return ‖d_out‖ / (‖d_in‖ + ‖d_out‖) of each feature, normalised units."""
    norms_FS = np.linalg.norm(written_FSD, axis=2)
    return norms_FS[:, 1] / norms_FS.sum(1)
