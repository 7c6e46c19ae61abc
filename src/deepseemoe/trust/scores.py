"""How well an order of pairs finds the true ones."""

from typing import NamedTuple

import numpy as np


class Found(NamedTuple):
    """Scores of one order of the tested pairs of one world."""

    auroc: float
    ap: float
    ap_by_expert: float
    top1_expert: float
    top1_feature: float


def found(score: np.ndarray, truth: np.ndarray, expert: np.ndarray, feature: np.ndarray) -> Found:
    """Return how the order by falling `score` finds true pairs; NaN scores come last.

    `ap_by_expert` is the mean over experts with a true pair; `top1_expert` the share of them whose
    first feature is true, `top1_feature` the share of features with a true pair whose first expert
    is.
    """
    score = np.where(np.isnan(score), -np.inf, score)
    by_expert = [average_precision(score[mine], truth[mine]) for mine in _groups(expert, truth)]
    return Found(
        auroc(score, truth),
        average_precision(score, truth),
        float(np.mean(by_expert)),
        *(
            float(np.mean([truth[mine][np.argmax(score[mine])] for mine in _groups(of, truth)]))
            for of in (expert, feature)
        ),
    )


def average_precision(score: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean precision at each true item in the order of falling score."""
    hit = truth.ravel()[np.argsort(-score.ravel(), kind="stable")]
    return float((np.cumsum(hit) / np.arange(1, hit.size + 1))[hit].mean())


def auroc(score: np.ndarray, truth: np.ndarray) -> float:
    """Return the chance that a true item scores higher than a false one; ties count half."""
    _, place, counts = np.unique(score.ravel(), return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    hit = truth.ravel()
    n_true = hit.sum()
    return float((rank[hit].sum() - n_true * (n_true + 1) / 2) / n_true / (~hit).sum())


def _groups(of: np.ndarray, truth: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each group that holds something true."""
    return [np.flatnonzero(of == one) for one in np.unique(of[truth])]
