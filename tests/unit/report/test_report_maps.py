"""Arithmetic behind the figures of routing and maps: planted truth, and worlds without any."""

import numpy as np
import pytest
from fake_maps import no_pairs, pairs
from scipy.stats import binom

from deepseemoe.report.coactivation import ratio_to_chance
from deepseemoe.report.concentration import SHARES, chance_cdf, concentrate
from deepseemoe.report.heatmap import row_order
from deepseemoe.report.maps import strongest_features
from deepseemoe.runtime.seeds import generator

SHARES_E = np.array([0.5, 0.3, 0.2, 0.4, 0.25, 0.35])


def load_table(shares_E):
    return {"layer": np.zeros(len(shares_E), int), "share": shares_E}


def test_indifferent_routers_show_no_teams():
    n_experts, top_k = 8, 2
    each = top_k * (top_k - 1) / (n_experts * (n_experts - 1))
    counts = np.full((n_experts, n_experts), 1000 * each)
    off = ~np.eye(n_experts, dtype=bool)
    assert ratio_to_chance(counts)[off] == pytest.approx(1)


def test_indifferent_routers_with_uneven_load_show_no_teams():
    counts = np.outer(SHARES_E, SHARES_E) * 1000
    assert ratio_to_chance(counts)[~np.eye(6, dtype=bool)] == pytest.approx(1)


def test_a_planted_team_stands_out():
    counts = np.outer(SHARES_E, SHARES_E) * 1000
    counts[1, 4] = counts[4, 1] = 4 * counts[1, 4]
    ratio = ratio_to_chance(counts)
    assert np.unravel_index(np.nanargmax(ratio), ratio.shape) == (1, 4)
    assert ratio[1, 4] > 1.5
    assert np.isnan(np.diag(ratio)).all()


def test_two_rare_experts_that_meet_by_luck_are_no_team():
    shares = np.array([0.5, 0.5, 0.5, 0.001, 0.001])
    counts = np.outer(shares, shares) * 10_000
    counts[3, 4] = counts[4, 3] = 2
    assert ratio_to_chance(counts)[3, 4] < 1.5


def test_an_expert_that_is_never_chosen_is_left_out():
    counts = np.outer([1, 1, 1, 0], [1, 1, 1, 0]) * 100.0
    ratio = ratio_to_chance(counts)
    assert np.isnan(ratio[3]).all()
    assert ratio[0, 1] == pytest.approx(1)


def test_chance_is_the_distribution_of_the_largest_share():
    rng, n_tokens = generator(0, "test chance"), 64
    tops = rng.binomial(n_tokens, SHARES_E, (20_000, 6)).max(axis=1) / n_tokens
    measured = np.searchsorted(np.sort(tops), SHARES, side="right") / len(tops)
    assert chance_cdf(np.array([n_tokens]), SHARES_E) == pytest.approx(measured, abs=0.015)


def test_chance_of_one_expert_is_binomial():
    expected = binom.cdf(np.floor(SHARES * 100 + 1e-9), 100, 0.3)
    found = chance_cdf(np.array([100]), np.array([0.3]))
    assert found == pytest.approx(expected, abs=0.1)


def test_features_without_preference_look_like_chance():
    rng, n_features = generator(0, "test null"), 400
    n_active_F = rng.integers(600, 30_000, n_features)
    table = pairs(rng, 0, n_active_F, SHARES_E, np.zeros((n_features, 6)))
    table["n_feature"] = np.maximum(table["n_feature"] // 6, 20)  # what its counts are drawn from
    found = concentrate(table, load_table(SHARES_E))
    assert np.mean(found.n_called > 0) < 0.02
    measured = np.searchsorted(np.sort(found.top_share), SHARES, side="right") / n_features
    assert np.abs(measured - found.chance_cdf).max() < 0.12


def test_features_with_a_planted_expert_call_one():
    rng, n_features = generator(0, "test planted"), 100
    lor_FE = np.zeros((n_features, 6))
    lor_FE[:, 2] = 4.0
    table = pairs(rng, 0, np.full(n_features, 6000), SHARES_E, lor_FE)
    found = concentrate(table, load_table(SHARES_E))
    assert np.mean(found.n_called == 1) > 0.9
    assert np.median(found.top_share) > 0.9


def test_an_empty_map_has_no_concentration():
    assert len(concentrate(no_pairs(), load_table(SHARES_E)).top_share) == 0


def test_rows_follow_the_experts_that_they_call():
    grid = np.zeros((5, 4))
    grid[[0, 1, 2, 3], [3, 0, 2, 0]] = 2.0
    grid[4] = -1
    called = np.where(grid > 0, 1, 0)[row_order(grid)].argmax(axis=1)
    assert called[:4].tolist() == [0, 0, 2, 3]
    assert row_order(grid)[-1] == 4, "a feature that only avoids experts comes last"


def test_the_surest_features_come_first_and_once():
    kept = {
        "feature": np.array([7, 7, 8, 9]),
        "lor_lo": np.array([0.5, 2.0, -3.0, 1.0]),
        "lor_hi": np.array([1.0, 3.0, -2.5, 1.5]),
    }
    assert strongest_features(kept, 2) == {8: 2.5, 7: 2.0}
