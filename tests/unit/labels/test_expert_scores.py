"""Scores of descriptions of experts: formulas, and intervals that cover what they should."""

import numpy as np
import pytest

from deepseemoe.labels.expert_scores import f1_at, score_expert


def tokens(rng, *, n_documents=60, spread=1.0):
    """Return documents whose share of positives, and rates of being told yes, differ."""
    documents_T = np.repeat(np.arange(n_documents), rng.integers(20, 80, n_documents))
    share_N, recall_N, alarm_N = (
        1 / (1 + np.exp(-(middle + spread * rng.normal(size=n_documents))))
        for middle in (-1.5, 1.0, -2.0)
    )
    truth_T = rng.random(documents_T.size) < share_N[documents_T]
    rate_T = np.where(truth_T, recall_N[documents_T], alarm_N[documents_T])
    return rng.random(documents_T.size) < rate_T, truth_T, documents_T


def test_scores_are_the_plain_formulas():
    said, truth, documents = tokens(np.random.default_rng(0))
    score = score_expert(said, truth, documents, np.zeros(said.size))
    hits = (said & truth).sum()
    assert score.precision == pytest.approx(hits / said.sum())
    assert score.recall == pytest.approx(hits / truth.sum())
    f1 = 2 * score.precision * score.recall / (score.precision + score.recall)
    assert score.f1.value == pytest.approx(f1)
    alarm = (said & ~truth).sum() / (~truth).sum()
    assert score.balanced_accuracy.value == pytest.approx((score.recall + 1 - alarm) / 2)
    assert score.f1_15_85.value == pytest.approx(f1_at(score.recall, alarm))
    assert score.null == 0.5
    assert score.lift.value == pytest.approx(score.balanced_accuracy.value - 0.5)


def test_one_class_alone_is_not_scored():
    documents = np.zeros(5, int)
    score = score_expert(np.ones(5, bool), np.ones(5, bool), documents, np.zeros(5))
    assert (score.n_positive, score.n_negative) == (5, 0)
    assert score.f1.value is score.balanced_accuracy.value is score.lift.value is None


def test_a_description_that_never_applies_has_f1_0_and_no_precision():
    _, truth, documents = tokens(np.random.default_rng(1))
    score = score_expert(np.zeros(truth.size, bool), truth, documents)
    assert (score.precision, score.recall, score.f1.value) == (None, 0, 0)
    assert score.balanced_accuracy.value == 0.5
    assert score.lift.value is None


def test_intervals_cover_the_truth():
    """600 samples of 60 documents; between 91 and 98 % of nominal 95 % intervals must cover."""
    large = score_expert(*tokens(np.random.default_rng(2), n_documents=20_000))
    names = ("f1", "f1_15_85", "balanced_accuracy")
    covered = {name: [] for name in names}
    for seed in range(600):
        score = score_expert(*tokens(np.random.default_rng([seed, 3])))
        for name in names:
            value, lo, hi = getattr(score, name)
            assert 0 <= value <= 1
            covered[name].append(lo <= getattr(large, name).value <= hi)
    shares = {name: np.mean(found) for name, found in covered.items()}
    assert all(0.91 < share < 0.98 for share in shares.values()), shares


def test_the_lift_of_what_says_nothing_is_0():
    """What is said goes by documents, and so does the truth, but one knows nothing of the other."""
    misses = []
    for seed in range(400):
        rng = np.random.default_rng([seed, 4])
        _, truth, documents = tokens(rng)
        own, *others = (rng.random(truth.size) < rng.random(60)[documents] for _ in range(5))
        lift = score_expert(own, truth, documents, np.mean(others, axis=0)).lift
        misses.append(not lift.lo <= 0 <= lift.hi)
    assert 0.02 < np.mean(misses) < 0.09
