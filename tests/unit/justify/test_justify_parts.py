"""Coders, nulls and measures, each against what is known by construction."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from planted_stores import write_store
from small_moe import (
    D_MODEL,
    N_LAYERS,
    identity_crosscoder,
    plain,
    small_model,
    write_split,
)

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config import ModelConfig
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.weights import Weights
from deepseemoe.justify.coders import Separate, matrix
from deepseemoe.justify.copying import fit_copy
from deepseemoe.justify.evidence import home_of
from deepseemoe.justify.probes import Split, fit_ridge, probe_baselines, probe_features
from deepseemoe.justify.random_model import random_config, write_random_model
from deepseemoe.justify.rows import NO_TOKEN, Rows
from deepseemoe.justify.sharing import duplicates_per_1k, effective_layers
from deepseemoe.justify.shuffled import ShuffledStore
from deepseemoe.justify.splicing import measure_splices
from deepseemoe.justify.stability import mean_best_cosine
from deepseemoe.justify.sums import Key, Sums
from deepseemoe.model.loading import load_model
from deepseemoe.names import Window

SITES = [f"resid_post/L{n:02d}" for n in range(N_LAYERS)]


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def split(model, tmp_path_factory):
    routing = [f"expert_ids/L{n:02d}" for n in range(N_LAYERS)]
    return write_split(tmp_path_factory.mktemp("split"), model, SITES), routing


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    sites = {f"resid_post/L{n:02d}": rng.standard_normal((2000, 4)) for n in range(2)}
    return ActivationStore(write_store(tmp_path / "store.zarr", sites))


def ratio(sums, arm, endpoint, layer):
    """Return the mean over items of a ratio over all units."""
    found = {}
    for row in sums.rows():
        if (row["arm"], row["endpoint"], row["layer"]) == (arm, endpoint, layer):
            both = found.setdefault(row["item"], np.zeros(2))
            both += row["numerator"], row["denominator"]
    return float(np.mean([top / bottom for top, bottom in found.values()]))


def test_separate_saes_are_each_the_sae_alone():
    saes = [identity_crosscoder(Window(n, n)) for n in (1, 2)]
    both, x_TLD = Separate(tuple(saes)), torch.randn(50, 2, D_MODEL)
    entries = both.entries(x_TLD)
    assert both.window == Window(1, 2)
    order = entries.tokens * both.d_dict + entries.features
    assert bool((order.diff() > 0).all()), "sorted by token, then by feature"
    assert torch.allclose(both.reconstruct(entries, n_tokens=50), x_TLD, atol=1e-6)
    first = matrix(saes[0].entries(x_TLD[:, :1]), 50, saes[0].d_dict)
    whole = matrix(entries, 50, both.d_dict)
    assert (whole[:, : saes[0].d_dict] != first).nnz == 0


def test_saes_that_are_no_window_are_refused():
    with pytest.raises(ValueError, match="expected one for each layer of a window"):
        Separate(tuple(identity_crosscoder(Window(n, n)) for n in (0, 2)))


def test_splicing_exact_separate_saes_together_changes_nothing(model, split):
    (files, _), sums = split, Sums()
    coders = {
        "exact": Separate(tuple(identity_crosscoder(Window(n, n)) for n in (1, 2))),
        "crosscoder": identity_crosscoder(Window(1, 2)),
    }
    stores = [ActivationStore(path) for path in files.stores]
    measure_splices(coders, model, stores=stores, tokens=files.tokens, max_tokens=10_000, sums=sums)
    for arm in coders:
        assert ratio(sums, arm, "loss_recovered", -1) == pytest.approx(1, abs=1e-4)
        assert ratio(sums, arm, "router_agreement", 3) == 1
    units = {row["unit"] for row in sums.rows() if row["endpoint"] == "loss_recovered"}
    assert len(units) == 12, "two documents in each of six sequences of a shard, on the same ids"


def test_rows_know_the_token_before_each(split):
    (files, _) = split
    rows = Rows([ActivationStore(path) for path in files.stores], max_tokens=10_000)
    tokens = rows.tokens()
    assert len(tokens.documents) == rows.n_valid
    assert (tokens.before != NO_TOKEN).all(), "position 0 is not valid, so each has one"
    some = next(iter(rows.blocks(SITES)))
    assert some[1].shape == (some[0].stop, N_LAYERS, D_MODEL)


def test_shuffled_layers_keep_their_rows_and_lose_their_partners(store):
    shuffled = ShuffledStore(store, seed=1)
    first, second = (store.floats(site, 0, 2000) for site in store.sites)
    moved = [shuffled.floats(site, 0, 2000) for site in store.sites]
    valid = store.valid_rows()
    rows = [shuffled.sources(site) for site in store.sites]
    for own, other, places in zip((first, second), moved, rows, strict=True):
        assert np.array_equal(np.sort(places), np.arange(2000))
        assert np.array_equal(other, own[places])
    assert (valid[rows[0]] == valid).all()
    assert (rows[0] == rows[1])[valid].mean() < 0.05
    assert np.array_equal(shuffled.floats(store.sites[0], 100, 700), moved[0][100:700])
    assert np.array_equal(ShuffledStore(store, seed=1).floats(store.sites[1], 0, 2000), moved[1])


def test_a_copy_decodes_what_the_stream_carries_along(tmp_path):
    """Layer 1 is a linear map of layer 0, so the features of layer 0 give it back."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2000, D_MODEL))
    sites = {"resid_post/L00": x, "resid_post/L01": x @ rng.standard_normal((D_MODEL, D_MODEL))}
    rows = Rows([ActivationStore(write_store(tmp_path / "s.zarr", sites))], max_tokens=2000)
    copy = fit_copy(identity_crosscoder(Window(0, 0)), Window(0, 1), rows)
    for _, x_TLD in rows.blocks(sorted(sites)):
        y_TLD = copy.reconstruct(copy.entries(x_TLD), n_tokens=len(x_TLD))
        fvu_L = (y_TLD - x_TLD).square().sum((0, 2)) / x_TLD.square().sum((0, 2))
        assert fvu_L.max() < 1e-3


def test_ridge_finds_the_planted_weights():
    rng = np.random.default_rng(0)
    design = sp.random_array((4000, 20), density=0.2, rng=rng, dtype=np.float32).tocsr()
    weights = rng.standard_normal((20, 3))
    fitted = fit_ridge(design, design @ weights + 2.0, ridge=1e-6)
    assert fitted.weights_FE == pytest.approx(weights, abs=1e-3)
    assert fitted.bias_E == pytest.approx(2.0, abs=1e-3)


def routed_split(rows, expert_T):
    chosen = np.zeros((rows.n_valid, 4), np.float32)
    chosen[np.arange(rows.n_valid), expert_T] = 1
    return Split(rows.tokens(), {1: chosen})


def test_probes_tell_routing_by_features_from_routing_by_tokens(store):
    """Where features decide, the token knows nothing; where the token decides, it knows all."""
    rows, rng = Rows([store], max_tokens=2000), np.random.default_rng(5)
    feature_T = rng.integers(0, 4, rows.n_valid)
    codes = sp.csr_array(np.eye(4, dtype=np.float32)[feature_T])
    for decider, expert_T in (("feature", feature_T), ("token", rows.tokens().token_ids % 4)):
        sums, own = Sums(), routed_split(rows, expert_T)
        probe_features("features", codes, codes, own, own, sums, max_features=100)
        probe_baselines(Window(0, 1), rows, rows, own, own, sums, k=2)
        by_feature = ratio(sums, "features", "routing_f1", 1)
        by_token = ratio(sums, "unigram", "routing_f1", 1)
        if decider == "feature":
            assert by_feature == 1
            assert by_token < 0.5
        else:
            assert by_token == 1
            assert by_feature < 0.5


def test_duplicates_are_counted_over_the_features_that_fire():
    rng = np.random.default_rng(0)
    fires = rng.random((1000, 5)) < 0.1
    fires[:, 1] = fires[:, 0]
    fires[:, 4] = False
    codes = sp.csr_array(fires * rng.uniform(0.5, 2, fires.shape))
    assert duplicates_per_1k(codes) == pytest.approx(1000 / 4)
    assert duplicates_per_1k(sp.csr_array((50, 3))) is None


def test_a_feature_with_decoders_everywhere_may_be_driven_by_one_layer(tmp_path):
    """Feature 0 reads layer 0 only, feature 1 both layers alike; both write both layers."""
    rng = np.random.default_rng(1)
    x = np.abs(rng.standard_normal((1000, 1)))
    sites = {f"resid_post/L{n:02d}": np.repeat(x, D_MODEL, 1) for n in range(2)}
    rows = Rows([ActivationStore(write_store(tmp_path / "s.zarr", sites))], max_tokens=1000)
    encoder, decoder = torch.zeros(2, 2 * D_MODEL), torch.ones(2, 2 * D_MODEL)
    encoder[0, 0] = 1.0
    encoder[1, 0] = encoder[1, D_MODEL] = 1.0
    bias = torch.zeros(2), torch.zeros(2 * D_MODEL)
    weights = Weights((encoder,), bias[0], (decoder,), bias[1])
    point, none = "resid_post", plain(2)
    crosscoder = Dictionary("crosscoder", Window(0, 1), 2, point, point, weights, none, none)
    found = effective_layers(crosscoder, rows)
    assert found.functional == pytest.approx((1 + 2) / 2)
    assert found.decoder == pytest.approx(2)


def test_stability_is_one_for_the_same_features_in_another_order():
    decoder = torch.randn(30, 8)
    assert mean_best_cosine(decoder, 3 * decoder[torch.randperm(30)]) == pytest.approx(1, abs=1e-5)
    assert mean_best_cosine(decoder, torch.randn(30, 8)) < 0.9


def test_a_layer_is_at_home_in_the_window_around_it():
    windows = [Window(n, n + 2) for n in range(4)]
    homes = [home_of(layer, windows).first for layer in range(6)]
    assert homes == [0, 0, 1, 2, 3, 3]
    assert home_of(1, [Window(0, 1), Window(1, 2)]) == Window(0, 1)


def test_a_random_model_has_the_same_shape_and_other_weights(model, tmp_path):
    model.network.save_pretrained(tmp_path / "model")
    config = ModelConfig()
    write_random_model(config, tmp_path / "model", random=tmp_path / "random", seed=0)
    other = load_model(random_config(config, tmp_path / "random"), None)
    for (name, own), (_, drawn) in zip(
        model.network.named_parameters(), other.network.named_parameters(), strict=True
    ):
        assert own.shape == drawn.shape, name
        assert own.ndim < 2 or not torch.allclose(own, drawn), name


def test_sums_keep_documents_apart():
    sums = Sums()
    sums.add(Key("a", "fvu", 0), np.array([1, 1, 3]), [1.0, 2.0, 4.0], 1.0)
    rows = [(row["unit"], row["numerator"], row["denominator"]) for row in sums.rows()]
    assert rows == [(1, 3.0, 2.0), (3, 4.0, 1.0)]
