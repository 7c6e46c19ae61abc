import itertools

import numpy as np
import pytest
from random_routers import choose, documents, moody

from deepseemoe.routing import legacy
from deepseemoe.routing.chance import chance_pairs
from deepseemoe.routing.coactivation import coactivation
from deepseemoe.routing.information import entropy_bits, jensen_shannon, mutual_information
from deepseemoe.routing.load import gate_entropy, load, router_entropy


def test_a_uniform_router_uses_all_experts_alike():
    found = load(choose(np.random.default_rng(0), 40_000, 16, 4), 16)
    np.testing.assert_allclose(found.load_E, 1, atol=0.05)
    assert found.entropy == pytest.approx(4, abs=1e-3)
    assert found.effective == pytest.approx(16, abs=0.02)
    assert found.n_tokens_E.sum() == 4 * 40_000
    assert np.isnan(found.share_lo_E).all()
    assert np.isnan(found.weight_share_E).all()


def test_load_counts_experts_that_no_token_chose_and_gate_weight():
    ids, weights = np.array([[0, 1], [0, 2], [0, 1]]), np.array([[3.0, 1], [2, 1], [1, 0]])
    found = load(ids, 5, weights_TK=weights)
    assert found.n_tokens_E.tolist() == [3, 2, 1, 0, 0]
    np.testing.assert_allclose(found.share_E, [1, 2 / 3, 1 / 3, 0, 0])
    np.testing.assert_allclose(found.weight_share_E, [6 / 8, 1 / 8, 1 / 8, 0, 0])
    shares = np.array([1 / 2, 1 / 3, 1 / 6])
    assert found.entropy == pytest.approx(-(shares * np.log2(shares)).sum())


def test_intervals_of_shares_hold_the_truth_although_documents_are_moody():
    """A router that is uniform over documents, in 60 worlds: 95 % intervals miss in about 5 %."""
    misses = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        document = documents(rng, 80, 30)
        found = load(moody(rng, document, 8, 2), 8, document_T=document)
        misses += [(found.share_lo_E > 0.25) | (found.share_hi_E < 0.25)]
    assert 0.03 < np.mean(misses) < 0.09


def test_entropies_of_known_distributions():
    assert entropy_bits(np.array([1, 1, 2])) == pytest.approx(1.5)
    assert np.isnan(entropy_bits(np.zeros(3)))
    assert mutual_information(np.diag([5, 5, 5, 5])) == pytest.approx(2)
    assert mutual_information(np.outer([1, 2, 3], [4, 5])) == pytest.approx(0, abs=1e-12)
    assert jensen_shannon([1, 1, 0, 0], [0, 0, 3, 3]) == pytest.approx(1)
    assert jensen_shannon([1, 3], [10, 30]) == pytest.approx(0)
    assert gate_entropy([[0.2, 0.2], [1, 0]]) == pytest.approx([1, 0])
    assert router_entropy([[1000.0] * 8, [0.0] * 8]) == pytest.approx([3, 3])


@pytest.mark.parametrize(("n_experts", "top_k"), [(8, 2), (32, 4), (64, 8), (8, 1), (8, 8)])
def test_a_uniform_router_is_at_the_chance_line_of_coactivation(n_experts, top_k):
    shares = np.full(n_experts, top_k / n_experts)
    expected = (top_k - 1) / top_k * n_experts / (n_experts - 1)
    off = ~np.eye(n_experts, dtype=bool)
    lifts = chance_pairs(shares)[off] / shares[0] ** 2
    np.testing.assert_allclose(lifts, expected, atol=1e-9)
    found = coactivation(choose(np.random.default_rng(1), 30_000, n_experts, top_k), n_experts)
    np.testing.assert_allclose(found.chance_lift_EE[off], expected, atol=0.02)
    np.testing.assert_allclose(found.lift_EE[off], expected, atol=0.35)
    assert np.isnan(found.lift_EE.diagonal()).all()
    if top_k > 1:
        assert np.mean(found.excess_EE[off]) == pytest.approx(1, abs=0.01)


def test_the_chance_line_is_the_sum_over_all_sets_of_experts():
    shares = np.array([0.9, 0.7, 0.5, 0.3, 0.3, 0.2, 0.1])
    odds = np.array([12.0, 3.0, 1.5, 0.6, 0.6, 0.3, 0.15])
    sets = list(itertools.combinations(range(7), 3))
    p_set = np.array([np.prod(odds[list(one)]) for one in sets])
    both = np.zeros((7, 7))
    for one, p in zip(sets, p_set / p_set.sum(), strict=True):
        both[np.ix_(one, one)] += p
    np.testing.assert_allclose(chance_pairs(both.diagonal()), both, atol=1e-8)
    np.testing.assert_allclose(chance_pairs(shares).diagonal(), shares)
    # each token has two other experts
    np.testing.assert_allclose(chance_pairs(shares).sum(1), 3 * shares, atol=1e-8)


def test_the_chance_line_of_an_expert_that_all_or_no_tokens_choose():
    pairs = chance_pairs(np.array([1.0, 0.5, 0.5, 0.0]))
    expected = [[1, 0.5, 0.5, 0], [0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0], [0] * 4]
    np.testing.assert_allclose(pairs, expected)


def test_uneven_load_alone_is_no_coactivation():
    """Sets drawn with unequal odds and nothing else: excess 1, inside 95 % of intervals."""
    rng = np.random.default_rng(2)
    drawn = rng.random((1_000_000, 8)) < [0.8, 0.6, 0.4, 0.3, 0.3, 0.2, 0.2, 0.1]
    drawn = drawn[drawn.sum(1) == 3]
    ids = np.nonzero(drawn)[1].reshape(-1, 3)
    found = coactivation(ids, 8, document_T=np.arange(len(ids)) // 40)
    off = ~np.eye(8, dtype=bool)
    np.testing.assert_allclose(found.excess_EE[off], 1, atol=0.06)
    inside = (found.lift_lo_EE <= found.chance_lift_EE) & (found.chance_lift_EE <= found.lift_hi_EE)
    assert inside[off].mean() > 0.8
    assert np.ptp(found.lift_EE[off]) > 0.3  # independence is not the line of chance


def test_a_planted_pair_stands_out():
    rng = np.random.default_rng(3)
    ids = choose(rng, 20_000, 16, 4)
    is_five = (ids == 5).any(1)
    swap = is_five & ~(ids == 9).any(1) & (rng.random(20_000) < 0.8)
    place = np.argmax(ids[swap] != 5, axis=1)
    ids[np.flatnonzero(swap), place] = 9
    found = coactivation(ids, 16, document_T=np.arange(20_000) // 50)
    assert np.nanargmax(found.excess_EE) in (5 * 16 + 9, 9 * 16 + 5)
    assert found.lift_lo_EE[5, 9] > found.chance_lift_EE[5, 9] + 0.5
    assert found.p_b_given_a_EE[5, 9] == pytest.approx((ids[is_five] == 9).any(1).mean())


def test_an_expert_that_is_never_chosen_has_no_pairs():
    found = coactivation(np.array([[0, 1], [1, 3], [3, 0]]), 5, document_T=[0, 1, 2])
    has_pairs = ~np.isnan(found.lift_EE)
    expected = [(a, b) for a in (0, 1, 3) for b in (0, 1, 3) if a != b]
    assert sorted(zip(*np.nonzero(has_pairs), strict=True)) == expected
    assert np.array_equal(np.isnan(found.lift_lo_EE), ~has_pairs)


def test_legacy_pairs_are_those_of_a_plain_loop():
    ids = choose(np.random.default_rng(4), 500, 8, 4)
    later = choose(np.random.default_rng(5), 500, 8, 4)
    both, crossed = np.zeros((2, 8, 8))
    for row, other in zip(ids, later, strict=True):
        for a, b in itertools.pairwise(row):
            both[a, b] += 1
            both[b, a] += 1
        for a, b in zip(row, other, strict=True):
            crossed[a, b] += 1
    expected = both / np.bincount(ids.ravel(), minlength=8)[:, None]
    np.testing.assert_allclose(legacy.rank_adjacent_coactivation(ids, n_experts=8), expected)
    assert np.array_equal(legacy.cross_layer_by_rank(ids, later, n_experts=8), crossed)
    true = coactivation(ids, 8).p_b_given_a_EE
    assert np.nansum(true) == pytest.approx(2 * np.nansum(expected), rel=1e-2)  # 6 pairs, not 3
