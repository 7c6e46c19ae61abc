"""The null of swapped descriptions, and lifts over it."""

import numpy as np
import pytest

from deepseemoe.labels.explanation import Explanation, Labelled, Score
from deepseemoe.labels.null import CHANCE, Null, lift, nulls_of, partners

WHAT = Explanation("x", "model", "")


def scored(value, *, scorer="detection", half=0.05):
    return Score(scorer, 20, 20, value, value - half, value + half)


def labelled(values):
    return [Labelled(n, WHAT, (scored(0.9),), (scored(value),)) for n, value in enumerate(values)]


def test_partners_are_others_of_like_frequency_over_all_frequencies():
    n_active = np.geomspace(10, 100_000, 200).astype(int)
    pairs = partners(n_active, 40, np.random.default_rng(0))
    assert len(pairs) == 40
    own, others = np.array(pairs).T
    assert (own != others).all()
    assert (np.abs(np.log(n_active[own] / n_active[others])) < 1).all()
    assert n_active[own].min() < 20
    assert n_active[own].max() > 50_000


@pytest.mark.parametrize("n_features", [0, 1])
def test_a_feature_alone_has_no_partner(n_features):
    assert partners([5] * n_features, 10, np.random.default_rng(0)) == []


def test_no_null_is_measured_where_none_is_asked_for():
    assert partners([5] * 20, 0, np.random.default_rng(0)) == []


def test_the_null_is_the_mean_over_features_and_its_interval_covers():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        null = nulls_of(labelled(random.normal(0.52, 0.1, 50)))["detection"]
        covered += abs(null.mean - 0.52) < null.half
    assert 0.91 < covered / 400 < 0.98


def test_scores_without_a_null_have_no_lift():
    assert nulls_of([Labelled(0, WHAT, (scored(0.9),), (None,))]) == {}
    assert lift(scored(0.9), {}) == (None, None, None, None)


def test_a_lift_is_the_difference_and_its_interval_holds_both_errors():
    found = lift(scored(0.9, half=0.03), {"detection": Null(0.5, 0.04, 100)})
    assert found == pytest.approx((0.5, 0.4, 0.35, 0.45))


def test_the_null_of_a_scorer_without_description_is_chance():
    found = lift(scored(0.7, scorer="intruder"), {})
    assert found == pytest.approx((CHANCE.mean, 0.2, 0.15, 0.25))


def test_nothing_is_lifted_that_was_not_scored():
    none = Score("detection", 0, 0, None, None, None)
    assert lift(none, {"detection": Null(0.5, 0.01, 9)}) == (0.5, None, None, None)
