"""False discovery rates: over the pairs of a layer, and down the tree layer, expert, pair."""

import numpy as np
from scipy import stats

SURE = 0.05
"""False discovery rate below which a pair counts as found."""


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Return q, the false discovery rate at which each hypothesis is rejected (Benjamini 1995)."""
    return stats.false_discovery_control(p) if p.size else p


def simes(p: np.ndarray) -> float:
    """Return the p value of "none of these is true" (Simes 1986); 1 of none."""
    ordered = np.sort(p)
    return float(min((ordered * p.size / np.arange(1, p.size + 1)).min(initial=1.0), 1.0))


def q_by_expert(expert_R: np.ndarray, p_R: np.ndarray, level: float) -> tuple[np.ndarray, float]:
    """Return q of the pairs (R,) of a layer within the tree below it, and the layer's own p.

    TreeBH (Bogomolov, Peterson, Benjamini and Sabatti 2021): an expert's p is Simes' over its
    pairs, a layer's Simes' over its experts; experts are tested by Benjamini-Hochberg within their
    layer, and pairs within their expert at a level that is lower by the share of experts that were
    rejected at `level`. Here that share raises q instead. Pairs of an expert that was not rejected
    have at least its q.
    """
    experts, place_R = np.unique(expert_R, return_inverse=True)
    members = [np.flatnonzero(place_R == place) for place in range(experts.size)]
    p_E = np.array([simes(p_R[rows]) for rows in members])
    q_E = benjamini_hochberg(p_E)
    selected = max((q_E <= level).mean(), 1 / max(experts.size, 1)) if experts.size else 1.0
    q_R = np.empty(p_R.size)
    for q_expert, rows in zip(q_E, members, strict=True):
        q_R[rows] = np.maximum(benjamini_hochberg(p_R[rows]) / selected, q_expert)
    return np.minimum(q_R, 1.0), simes(p_E)


def layer_factors(p_L: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return q (L,) of layers, and what q of the pairs below them is to be multiplied by."""
    q_L = benjamini_hochberg(p_L)
    selected = max((q_L <= level).mean(), 1 / max(p_L.size, 1)) if p_L.size else 1.0
    return q_L, np.full(p_L.size, 1 / selected)
