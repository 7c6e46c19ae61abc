"""Intervals cover what they claim, for other documents and other seeds; widths follow the rule."""

import numpy as np
import pytest

from deepseemoe.justify.choice import choose_of, is_line
from deepseemoe.justify.intervals import Ratios, estimate, minus, quantity_S, together

UNITS = 40


def ratios(values_SU, weight=1.0, tokens=50.0):
    """Return a quantity whose ratio in unit u on seed s is about `values_SU[s, u]`."""
    values = np.asarray(values_SU, float)[:, None]
    return Ratios(values * tokens, np.full_like(values, tokens), np.array([weight]))


def arm(rng, *, level=0.3, n_seeds=3, between=0.02, documents=None):
    """Return an arm: documents common to all arms, a seed's own luck, and noise of each."""
    common = documents if documents is not None else np.zeros(UNITS)
    luck = between * rng.standard_normal((n_seeds, 1))
    return ratios(level + common + luck + 0.01 * rng.standard_normal((n_seeds, UNITS)))


def test_a_quantity_is_the_mean_over_seeds_of_a_weighted_sum_of_ratios_of_sums():
    first = Ratios(np.array([[[1.0, 3.0]]]), np.array([[[2.0, 6.0]]]), np.array([2.0]))
    second = Ratios(np.array([[[1.0, 0.0]]]), np.array([[[4.0, 4.0]]]), np.array([-1.0]))
    assert quantity_S(together([first, second])) == pytest.approx([2 * 4 / 8 - 1 / 8])


@pytest.mark.parametrize("between", [0.0, 0.02], ids=["documents differ", "seeds differ too"])
def test_intervals_of_two_equal_arms_cover_zero_as_often_as_they_claim(between):
    rng, hits, n = np.random.default_rng(3), 0, 300
    for _ in range(n):
        documents = 0.1 * rng.standard_normal(UNITS)
        left, right = (arm(rng, between=between, documents=documents) for _ in range(2))
        found = estimate(minus(left, right), n_bootstrap=60)
        hits += found.lo <= 0 <= found.hi
    assert hits / n >= 0.91, "three drawn seeds would cover 0.75 to 0.85"


def test_one_arm_against_itself_is_exactly_zero():
    own = arm(np.random.default_rng(0))
    found = estimate(minus(own, own))
    assert (found.value, found.lo, found.hi) == (0, 0, 0)


def test_pairing_removes_what_documents_share():
    rng = np.random.default_rng(1)
    documents = rng.standard_normal(UNITS)
    left = arm(rng, level=0.3, between=0, documents=documents)
    right = arm(rng, level=0.2, between=0, documents=documents)
    paired, alone = estimate(minus(left, right)), estimate(left)
    assert paired.is_positive
    assert paired.standard_error < alone.standard_error / 20


def test_a_difference_of_seeds_widens_the_interval_although_documents_agree():
    own = ratios(np.repeat([[0.1], [0.2], [0.3]], UNITS, axis=1))
    found = estimate(own)
    assert found.standard_error == pytest.approx(0.1 / 3**0.5)
    assert found.hi - found.value == pytest.approx(4.303 * found.standard_error, rel=1e-3)


def curve(levels, noise=0.004, seed=0):
    """Return gains of widths on three seeds; that of width 1 is 0, being over itself."""
    rng = np.random.default_rng(seed)
    return {
        width: ratios(
            np.full((3, UNITS), level) + (noise * rng.standard_normal((3, UNITS)) if level else 0)
        )
        for width, level in levels.items()
    }


def test_the_smallest_width_within_a_standard_error_of_the_best_is_chosen():
    plateau = curve({1: 0.0, 2: 0.1, 3: 0.2, 5: 0.2, 8: 0.2})
    assert choose_of(plateau, n_bootstrap=100).width == 3


def test_width_one_is_chosen_where_nothing_is_gained():
    flat = curve({1: 0.0, 2: -0.1, 3: -0.05})
    found = choose_of(flat, n_bootstrap=100)
    assert (found.width, found.best, found.is_linear) == (1, 1, False)


def test_a_straight_line_is_called_one_and_the_cheapest_gain_is_chosen():
    found = choose_of(curve({1: 0.0, 2: 0.1, 3: 0.2, 5: 0.4}), n_bootstrap=100)
    assert found.is_linear
    assert found.width == 2
    assert found.marginal[5].value == pytest.approx(0.1, abs=0.002)
    assert not is_line({1: 0.0, 2: 0.1, 3: 0.12, 5: 0.13})
