"""Scores: intervals that hold what they promise, and a null made of features of like frequency."""

import numpy as np
import pytest

from deepseemoe.labels.scoring import Verdicts, document_rate, score, swapped, wilson


def test_balanced_accuracy_is_the_mean_of_both_rates():
    found = score("x", Verdicts(*(np.array(v) for v in ([3, 1], [4, 4], [9, 9], [10, 10]))))
    assert found.balanced_accuracy == pytest.approx((4 / 8 + 18 / 20) / 2)
    assert (found.n_positive, found.n_negative, found.n_failed) == (8, 20, 0)
    assert 0 < found.lo < found.balanced_accuracy < found.hi < 1


def test_without_positives_or_negatives_there_is_no_score():
    none, some = np.zeros(2, int), np.ones(2, int)
    assert score("x", Verdicts(none, none, some, some)).balanced_accuracy is None
    assert score("x", Verdicts(some, some, none, none)).balanced_accuracy is None
    empty = np.zeros(0, int)
    assert score("x", Verdicts(empty, empty, empty, empty), n_failed=3).n_failed == 3


def test_wilson_matches_its_published_value():
    # Newcombe 1998, table I: 81 of 263 has the 95 % score interval .2553 to .3662
    found = wilson(81 / 263, 263)
    assert (found.lo, found.hi) == (
        pytest.approx(0.2553, abs=5e-5),
        pytest.approx(0.3662, abs=5e-5),
    )


def test_intervals_cover_the_truth_when_documents_differ():
    rng = np.random.default_rng(0)
    items = rng.integers(5, 60, (400, 60))
    rates = rng.beta(7, 3, (400, 60))  # mean 0.7
    found = [document_rate(rng.binomial(n, p), n) for n, p in zip(items, rates, strict=True)]
    covered = np.mean([one.lo <= 0.7 <= one.hi for one in found])
    assert 0.92 < covered < 0.98
    naive = [wilson(one.value, float(n.sum())) for one, n in zip(found, items, strict=True)]
    assert np.mean([one.lo <= 0.7 <= one.hi for one in naive]) < 0.75


def test_a_perfect_score_of_few_documents_is_not_sure():
    right = np.array([500, 500])
    assert document_rate(right, right).lo == wilson(1.0, 2.0).lo < 0.4


@pytest.mark.parametrize("n_features", [2, 7, 8, 100])
def test_swapped_features_are_others_of_like_frequency(n_features):
    counts = np.random.default_rng(1).integers(10, 10_000, n_features)
    others = swapped(counts, np.random.default_rng(0))
    assert sorted(others) == list(range(n_features))
    assert (others != np.arange(n_features)).all()
    rank = np.argsort(np.argsort(counts))
    assert abs(rank[others] - rank).max() < 16


def test_a_feature_that_is_alone_is_its_own_other():
    assert swapped(np.array([5]), np.random.default_rng(0)).tolist() == [0]
