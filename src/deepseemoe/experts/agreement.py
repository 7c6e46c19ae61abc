"""Do the three kinds of evidence agree? Per expert: ranks, first places and signs.

Regression, weights and ablation err for different reasons, so where they agree they are right more
often; where they never agree, one of them is wrong for this model.

Axes: R pairs of one layer.
"""

from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

KINDS = {"regression": "beta_sel", "weights": "w_map", "causal": "causal_dp"}
FIRST = (20, 50)
"""Numbers of first features whose overlap is told."""

LEAST_PAIRS = 5
BINS = 10


def agreement_rows(layer: int, rows: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return a row for each expert of a layer and two kinds of evidence."""
    return [
        {"layer": layer, "expert": int(expert), "one": one, "other": other}
        | _agreement(rows[KINDS[one]][mine], rows[KINDS[other]][mine])
        for expert in np.unique(rows["expert"])
        for mine in [rows["expert"] == expert]
        for one, other in combinations(KINDS, 2)
    ]


def calibration(rows: dict[str, np.ndarray]) -> list[dict[str, float]]:
    """Return how often ablation confirms pairs, by how high regression and weights place them.

    Pairs are cut into BINS of equal size by the mean of their two places, lowest first.
    """
    known = ~np.isnan(rows["w_map"]) & ~np.isnan(rows["causal_dp_lo"])
    if known.sum() < BINS:
        return []
    place = sum(stats.rankdata(rows[name][known]) for name in ("beta_sel", "w_map"))
    effect, low = rows["causal_dp"][known], rows["causal_dp_lo"][known]
    return [
        {
            "n_pairs": int(some.size),
            "share_causal": float((low[some] > 0).mean()),
            "mean_causal_dp": float(effect[some].mean()),
        }
        for some in np.array_split(np.argsort(place, kind="stable"), BINS)
    ]


def _agreement(one_R: np.ndarray, other_R: np.ndarray) -> dict[str, Any]:
    known = ~(np.isnan(one_R) | np.isnan(other_R))
    one, other = one_R[known], other_R[known]
    few = one.size < LEAST_PAIRS or np.ptp(one) == 0 or np.ptp(other) == 0
    told: dict[str, Any] = {
        "n_pairs": int(one.size),
        "spearman": None if few else float(stats.spearmanr(one, other).statistic),
        "sign_agreement": None if few else float((np.sign(one) == np.sign(other)).mean()),
    }
    for n in FIRST:
        can = not few and one.size > n
        told[f"jaccard_{n}"] = _overlap(one, other, n) if can else None
        told[f"chance_{n}"] = chance_overlap(one.size, n) if can else None
    reason = "" if not few else "fewer than 5 pairs have both, or one never varies"
    return told | {"reason": reason}


def _overlap(one: np.ndarray, other: np.ndarray, n: int) -> float:
    """Return the Jaccard index of the n first of each."""
    first, second = (set(np.argsort(-v, kind="stable")[:n].tolist()) for v in (one, other))
    return len(first & second) / len(first | second)


def chance_overlap(n_pairs: int, n: int) -> float:
    """Return the expected Jaccard index of two random choices of n: hypergeometric overlap."""
    shared = np.arange(n + 1)
    return float((stats.hypergeom.pmf(shared, n_pairs, n, n) * shared / (2 * n - shared)).sum())
