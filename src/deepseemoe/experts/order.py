"""The order in which the map shows pairs: multivariate and causal evidence together.

Axes: R pairs of one layer.
"""

import numpy as np


def combined(beta_sel_R: np.ndarray, beta_logit_R: np.ndarray, causal_R: np.ndarray) -> np.ndarray:
    """Return a score (R,): the sum of -log(1 - place) over the three, places from 0 to 1.

    Places are those among all pairs of the layer. A pair that stands out in one account gains more
    than one that is middling in all. Without logits the regression of choices counts twice; without
    an effect the mean of the regressions stands in for it. In planted worlds this order finds more
    causal pairs than any single column (benchmarks/planted_map.py).
    """
    choices, logits, causal = map(_surprise, (beta_sel_R, beta_logit_R, causal_R))
    logits = np.where(np.isnan(logits), choices, logits)
    return choices + logits + np.where(np.isnan(causal), (choices + logits) / 2, causal)


def rank_within(group_R: np.ndarray, is_first_R: np.ndarray, score_R: np.ndarray) -> np.ndarray:
    """Return the place (R,), from 1, of each pair among those of its group.

    Those that are first come first, and of them and of the others the highest score.
    """
    order = np.lexsort((-score_R, ~is_first_R, group_R))
    group = group_R[order]
    place = np.empty(order.size, np.int64)
    place[order] = np.arange(order.size) - np.searchsorted(group, group)
    return place + 1


def _surprise(values_R: np.ndarray) -> np.ndarray:
    """Return -log(1 - place) of each value among all; ties share a place, NaN stays NaN."""
    known = ~np.isnan(values_R)
    surprise = np.full(values_R.size, np.nan)
    if known.any():
        values, first, counts = np.unique(values_R[known], return_inverse=True, return_counts=True)
        place = (np.cumsum(counts) - (counts - 1) / 2 - 0.5) / counts.sum()
        surprise[known] = -np.log1p(-place)[first] if values.size else 0.0
    return surprise
