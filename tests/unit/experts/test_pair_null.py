"""Nulls in which nothing is to be found, and what a test that takes tokens as independent finds."""

import numpy as np
import planted
import pytest
from planted_shards import shards
from scipy import stats

from deepseemoe.config import ExpertsConfig
from deepseemoe.experts.discovery import benjamini_hochberg
from deepseemoe.experts.documents import Documents
from deepseemoe.experts.evidence import weigh
from deepseemoe.experts.join import join
from deepseemoe.experts.permutation import permutation, permute, permuted_rows, z_scores
from deepseemoe.experts.support import count_firings

CONFIG = ExpertsConfig(n_permutations=100)
NULLS = {
    "independent tokens": {"spans": 1.0, "memory": 0.0},
    "spans": {},
    "documents": {"document_level": 1.0},
    "lengths": {"by_length": True},
}


def weighed(world, config=CONFIG):
    parts = shards(world)
    joined = join(parts.features, parts.stores, layers=(1,), n_experts=world.n_experts)
    evidence = next(weigh(joined, config, count_firings(joined.text), seed=0))
    tested = evidence.is_tested_FE
    return {k: evidence.column(k)[tested] for k in evidence.columns} | {
        "p_held_out": evidence.p_held_out[tested]
    }


@pytest.fixture(scope="module", params=list(NULLS))
def null(request):
    """Pairs of some worlds, and q within each world."""
    worlds = [planted.null_world(seed, n_documents=150, n_features=60, **NULLS[request.param])
              for seed in range(6)]  # fmt: skip
    found = [weighed(world) for world in worlds]
    pairs = {name: np.concatenate([one[name] for one in found]) for name in found[0]}
    pairs["q"] = np.concatenate([benjamini_hochberg(one["p_perm"]) for one in found])
    return request.param, pairs


def test_permutation_rejects_true_nulls_at_its_nominal_rate(null):
    _, pairs = null
    assert pairs["p_perm"].size > 2500
    # 1.5 times nominal is the target; the margin is for correlated pairs of six worlds
    assert 0.03 < (pairs["p_perm"] < 0.05).mean() < 0.075
    assert (pairs["p_perm"] < 0.01).mean() < 0.0175


def test_almost_nothing_passes_the_false_discovery_rate(null):
    _, pairs = null
    assert (pairs["q"] < 0.05).mean() < 0.002


def test_a_permutation_treated_as_data_has_uniform_p_values(null):
    _, pairs = null
    assert 0.035 < (pairs["p_held_out"] < 0.05).mean() < 0.07


def test_clustered_intervals_cover_a_true_zero(null):
    name, pairs = null
    misses = ((pairs["lor_lo"] > 0) | (pairs["lor_hi"] < 0)).mean()
    # length ties features to experts there: the log odds ratio over all documents is not 0
    low, high = (0.1, 1) if name == "lengths" else (0.025, 0.08)
    assert low < misses < high


def test_regression_and_replication_find_nothing_either(null):
    name, pairs = null
    misses = ((pairs["beta_sel_lo"] > 0) | (pairs["beta_sel_hi"] < 0)).mean()
    again = (pairs["rep_lor_lo"] > 0) & pairs["rep_sign"]
    if name != "lengths":
        assert 0.02 < misses < 0.09
        assert again.mean() < 0.03


def test_tokens_taken_as_independent_are_far_from_nominal_where_documents_agree():
    """The null worlds can fail a test: chi-square rejects several times too often in them."""
    world = planted.null_world(0, n_documents=150, n_features=60, document_level=1.0)
    pairs = weighed(world)
    observed = pairs["n_both"] - pairs["expected"]
    n = world.document_T.size
    spread = (1 - pairs["p_e"]) * (1 - pairs["n_feature"] / n)
    p = stats.chi2.sf(observed**2 / (pairs["expected"] * spread), 1)
    assert (p < 0.01).mean() > 0.08


def test_documents_read_documents_of_like_length():
    lengths = np.random.default_rng(0).integers(5, 500, 200)
    documents = Documents(np.concatenate([[0], np.cumsum(lengths)]))
    pi = permutation(documents, 0, 0)
    assert np.array_equal(np.sort(pi), np.arange(200))
    place = np.argsort(np.argsort(lengths, kind="stable"))
    assert np.abs(place[pi] - place).max() < 25
    assert (pi != np.arange(200)).mean() > 0.9
    assert not np.array_equal(pi, permutation(documents, 0, 1))
    assert not np.array_equal(pi, permutation(documents, 1, 0))


def test_tokens_read_the_same_offset_of_the_other_document():
    documents = Documents(np.array([0, 3, 8, 10]))
    rows = permuted_rows(documents, np.array([1, 2, 0]), 0, 10)
    assert rows.tolist() == [3, 4, 5, 8, 9, 8, 9, 8, 0, 1]
    assert permuted_rows(documents, np.array([1, 2, 0]), 3, 8).tolist() == [8, 9, 8, 9, 8]


def test_batches_of_permutations_and_shards_change_nothing(monkeypatch):
    world = planted.null_world(3, n_documents=60, n_features=20)
    nulls = []
    for n_shards, batch_bytes in ((1, 1 << 29), (4, 4 * 20 * 16 * 3)):
        monkeypatch.setattr("deepseemoe.experts.permutation.BATCH_BYTES", batch_bytes)
        parts = shards(world, n_shards)
        joined = join(parts.features, parts.stores, layers=(1,), n_experts=16)
        nulls.append(permute(joined, np.arange(20), n_permutations=8, seed=0))
    for one, other in zip(*nulls, strict=True):
        assert np.array_equal(one, other)


def test_features_that_are_settled_drop_out_and_the_others_go_on(monkeypatch):
    """A feature tied to an expert, and ones of noise: what is decided is not drawn again."""
    world = planted.null_world(5, n_documents=120, n_features=20, density=(0.05, 0.2))
    tied = np.isin(world.experts_TLK[:, 0], [3]).any(1)
    features = world.features_TF.tolil()
    features[:, 0] = tied[:, None].astype(np.float32)
    world = world._replace(features_TF=features.tocsr())
    parts = shards(world)
    joined = join(parts.features, parts.stores, layers=(1,), n_experts=16)
    both = (world.features_TF > 0).astype(float).T @ joined.routing.chosen(slice(None))
    options = {"n_permutations": 400, "seed": 0}
    whole = permute(joined, np.arange(20), **options)
    only = np.zeros_like(both, bool)
    only[:, 3] = True
    null = permute(joined, np.arange(20), both=both, is_tested=only, **options)
    assert null.n_draws_F[0] == 50
    assert set(null.n_draws_F) <= {50, 100, 200, 400}
    assert null.n_draws_F.sum() < 0.6 * whole.n_draws_F.sum()
    z, expected = z_scores(both, null)[:, 3], z_scores(both, whole)[:, 3]
    assert z[0] > 10
    np.testing.assert_allclose(z[1:], expected[1:], atol=0.6)


def test_moments_are_those_of_permutations_made_one_by_one():
    world = planted.null_world(4, n_documents=40, n_features=10, n_experts=4, top_k=1)
    parts = shards(world)
    joined = join(parts.features, parts.stores, layers=(1,), n_experts=4)
    documents, fires = joined.text.documents, world.features_TF.toarray() > 0
    counts = []
    for draw in range(7):
        rows = permuted_rows(documents, permutation(documents, 5, draw), 0, len(fires))
        experts = world.experts_TLK[rows, 0, 0]
        counts.append([[np.sum(fires[:, f] & (experts == e)) for e in range(4)] for f in range(10)])
    scaled = np.sqrt(np.array(counts[:6]) + 0.375)
    null = permute(joined, np.arange(10), n_permutations=6, seed=5)
    np.testing.assert_allclose(null.mean, scaled.mean(0))
    np.testing.assert_allclose(null.deviation, scaled.std(0, ddof=1), atol=1e-7)
    assert np.array_equal(null.held_out, counts[6])
