"""How early a router decides as it will in the end: OLMoE's equation 5.

    saturation = mean over tokens of |E_t ∩ E_T| / top_k

with E_t the experts of a token at a checkpoint and E_T those at the end. Routers that have nothing
to do with each other agree on top_k / E (`chance`) if their loads are even, and on more where both
prefer the same experts: `chance_by_load` = sum over experts of share_t share_T / top_k.

Axes: T tokens, K top_k, D documents, B draws (the first is the data), E experts.
"""

from typing import NamedTuple

import numpy as np

from deepseemoe.routing.arrays import check_routing, count_experts
from deepseemoe.routing.bootstrap import interval_of, weighted_sums
from deepseemoe.routing.load import document_draws


class Saturation(NamedTuple):
    """The agreement of two routers; the interval needs documents."""

    saturation: float
    low: float
    high: float
    chance: float
    chance_by_load: float


def saturation(
    ids_TK: np.ndarray,
    final_TK: np.ndarray,
    n_experts: int | None = None,
    *,
    document_T: np.ndarray | None = None,
    n_draws: int = 200,
    seed: int = 0,
) -> Saturation:
    """Return how many of its final experts a token already has, of the same tokens twice.

    For OLMoE's k = 1 give the first column, `ids[:, :1]`. Raises ValueError where arrays do not
    fit together.
    """
    ids_TK, final_TK = np.asarray(ids_TK), np.asarray(final_TK)
    for ids, name in ((ids_TK, "ids"), (final_TK, "final ids")):
        check_routing(ids, name=name)
    if ids_TK.shape != final_TK.shape:
        raise ValueError(
            f"final ids: expected {ids_TK.shape} of the same tokens, found {final_TK.shape}"
        )
    n_experts = max(count_experts(ids, n_experts) for ids in (ids_TK, final_TK))
    n_tokens, top_k = ids_TK.shape
    place_T, draws_DB = document_draws(document_T, n_tokens, n_draws, seed)
    kept_T = overlap(ids_TK, final_TK)
    sums_D2 = np.stack([np.bincount(place_T, kept_T / top_k), np.bincount(place_T)], axis=1)
    sums_B2 = weighted_sums(sums_D2, draws_DB)
    share_B = sums_B2[:, 0] / np.where(sums_B2[:, 1] > 0, sums_B2[:, 1], np.nan)
    shares = (np.bincount(ids.ravel(), minlength=n_experts) for ids in (ids_TK, final_TK))
    by_load = np.prod(list(shares), axis=0, dtype=np.float64).sum() / n_tokens**2 / top_k
    low, high = interval_of(share_B)
    return Saturation(float(share_B[0]), float(low), float(high), top_k / n_experts, float(by_load))


def overlap(ids_TK: np.ndarray, other_TK: np.ndarray) -> np.ndarray:
    """Return how many experts each token has in both (T,)."""
    return sum(
        (column_T[:, None] == other_TK).any(axis=1).astype(np.int64) for column_T in ids_TK.T
    )
