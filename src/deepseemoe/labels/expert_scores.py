"""How well a description tells which tokens are sent to an expert, with intervals over documents.

F1 is 2 tp / (positives + predicted), a share of mentions, so its interval is that of a share of
clustered items. Its height depends on how rare the expert is; `f1_15_85` is what the same rates
would give on 15 tokens of the expert among 85 others, the mixture that RouterInterp judges
(arXiv 2610.11775). Balanced accuracy is 1/2 for whatever says nothing, however often it says yes,
so the lift over the null is taken of it: what the descriptions of the layer's other experts reach
on the same tokens. F1 has no such level.

Axes: T tokens or judged items, N documents.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepseemoe.experts.statistics import clustered_interval
from deepseemoe.labels.scoring import document_rate

BoolArray = npt.NDArray[np.bool_]

POSITIVES, NEGATIVES = 15, 85
"""The mixture of `f1_15_85`."""

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A number with its 95 % interval."""

    value: float | None = None
    lo: float | None = None
    hi: float | None = None


class ExpertScore(NamedTuple):
    """How a description does; None where there is nothing to judge by."""

    n_positive: int
    n_negative: int
    precision: float | None = None
    recall: float | None = None
    f1: Interval = Interval()
    f1_15_85: Interval = Interval()
    balanced_accuracy: Interval = Interval()
    null: float | None = None
    """Balanced accuracy of the other experts' descriptions on the same tokens"""
    lift: Interval = Interval()


def score_expert(
    said_T: BoolArray,
    truth_T: BoolArray,
    documents_T: npt.NDArray[np.integer],
    others_T: npt.NDArray[np.floating] | None = None,
) -> ExpertScore:
    """Return the score of a description that says yes where `said_T` is set.

    `others_T` is the share of the other experts' descriptions that say yes; without it there is no
    null. `documents_T` are numbers of documents from 0.
    """
    n_positive, n_negative = int(truth_T.sum()), int((~truth_T).sum())
    if not n_positive or not n_negative:
        return ExpertScore(n_positive, n_negative)
    count = _Counts(truth_T, documents_T)
    hits_N, alarms_N = count.by_class(said_T.astype(np.float64))
    recall, alarm = hits_N.sum() / n_positive, alarms_N.sum() / n_negative
    n_said = int(said_T.sum())
    f1 = document_rate(2 * hits_N, hits_N + alarms_N + count.positives_N)
    null, lift = None, Interval()
    if others_T is not None:
        null = float(_balanced(*count.rates(others_T)))
        lift = count.balanced(said_T - others_T, 0.0)
    return ExpertScore(
        n_positive,
        n_negative,
        precision=float(hits_N.sum() / n_said) if n_said else None,
        recall=float(recall),
        f1=Interval(*f1),
        f1_15_85=count.interval(f1_at(recall, alarm), *_f1_slopes(recall, alarm), hits_N, alarms_N),
        balanced_accuracy=count.balanced(said_T.astype(np.float64), 0.5),
        null=null,
        lift=lift,
    )


def f1_at(recall: float, alarm: float) -> float:
    """Return F1 at 15 positives and 85 negatives from the shares of each that are told yes."""
    found = POSITIVES * recall
    return 2 * found / (POSITIVES + found + NEGATIVES * alarm)


def _f1_slopes(recall: float, alarm: float) -> tuple[float, float]:
    """Return the derivatives of `f1_at`."""
    whole = POSITIVES + POSITIVES * recall + NEGATIVES * alarm
    by_recall = 2 * POSITIVES * (POSITIVES + NEGATIVES * alarm) / whole**2
    return by_recall, -2 * POSITIVES * recall * NEGATIVES / whole**2


def _balanced(recall: float, alarm: float) -> float:
    return 0.5 + (recall - alarm) / 2


class _Counts:
    """Sums over documents of what is said on an expert's tokens and on the others."""

    def __init__(self, truth_T: BoolArray, documents_T: npt.NDArray[np.integer]):
        self._truth_T, self._documents_T = truth_T, documents_T
        self._n = int(documents_T.max(initial=-1)) + 1
        self.positives_N, self.negatives_N = self.by_class(np.ones(len(truth_T)))

    def by_class(self, values_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums over positives and over negatives of each document, (N,) both."""
        whole_N = np.bincount(self._documents_T, values_T, self._n)
        rows = np.flatnonzero(self._truth_T)
        on_N = np.bincount(self._documents_T[rows], values_T[rows], self._n)
        return on_N, whole_N - on_N

    def rates(self, values_T: np.ndarray) -> tuple[float, float]:
        """Return the means over positives and over negatives."""
        on_N, off_N = self.by_class(values_T)
        return on_N.sum() / self.positives_N.sum(), off_N.sum() / self.negatives_N.sum()

    def balanced(self, values_T: np.ndarray, level: float) -> Interval:
        """Return `level` + half the difference of both means."""
        sums = self.by_class(values_T)
        recall, alarm = self.rates(values_T)
        return self.interval(level + (recall - alarm) / 2, 0.5, -0.5, *sums)

    def interval(
        self, value: float, by_recall: float, by_alarm: float, on_N: np.ndarray, off_N: np.ndarray
    ) -> Interval:
        """Return the interval of a function of two rates by its derivatives: the delta method.

        Documents are the clusters; their effective number is that of the rarer class, the
        positives, as far as it is lower.
        """
        influence_N = np.zeros(self._n)
        n_clusters = np.inf
        for slope, sum_N, size_N in (
            (by_recall, on_N, self.positives_N),
            (by_alarm, off_N, self.negatives_N),
        ):
            whole = size_N.sum()
            influence_N += slope * (sum_N - sum_N.sum() / whole * size_N) / whole
            n_clusters = min(n_clusters, whole**2 / (size_N**2).sum())
        squares = np.asarray((influence_N**2).sum())
        lo, hi = clustered_interval(
            np.asarray(value), squares, np.asarray(n_clusters), confidence=CONFIDENCE
        )
        if not np.isfinite(lo):
            return Interval(float(value))
        return Interval(float(value), float(lo), float(hi))
