"""What other tools' code computes where it is not what their papers say; for comparison alone.

Axes: T tokens, L layers, K top_k by falling weight, E experts.
"""

import numpy as np

from deepseemoe.routing.arrays import check_routing, count_experts
from deepseemoe.routing.counts import count_rows
from deepseemoe.routing.relevance import Relevance, sums_of


def rank_adjacent_coactivation(ids_TK: np.ndarray, *, n_experts: int | None = None) -> np.ndarray:
    """Return OLMoE's co-activation as its code counts it (E, E): P(b | a) of neighbouring ranks.

    `do_correlation_analysis` of allenai/OLMoE scripts/run_moe_analysis.py pairs rank 1 with 2, 2
    with 3 and so on: top_k - 1 of the top_k (top_k - 1) / 2 pairs that equation 6 counts. NaN where
    a is never chosen.
    """
    ids_TK = np.asarray(ids_TK)
    check_routing(ids_TK)
    n_experts = count_experts(ids_TK, n_experts)
    pairs_EE = _pairs(ids_TK[:, :-1], ids_TK[:, 1:], n_experts)
    chosen_E = np.bincount(ids_TK.ravel(), minlength=n_experts)
    with np.errstate(invalid="ignore"):
        return (pairs_EE + pairs_EE.T) / chosen_E[:, None]


def cross_layer_by_rank(
    ids_TK: np.ndarray, later_TK: np.ndarray, *, n_experts: int | None = None
) -> np.ndarray:
    """Return OLMoE's cross-layer counts (E, E): its rank-k expert with the later rank-k expert.

    `run_analysis` of scripts/run_routing_analysis.py zips equal ranks, so it counts top_k of the
    top_k² pairs of a token; with the first rank alone it is the true joint of top-1 experts.
    """
    ids_TK, later_TK = np.asarray(ids_TK), np.asarray(later_TK)
    check_routing(ids_TK)
    check_routing(later_TK, name="later ids")
    if ids_TK.shape != later_TK.shape:
        raise ValueError(f"layers route {ids_TK.shape} and {later_TK.shape}; expected one shape")
    n_experts = n_experts or max(count_experts(ids_TK), count_experts(later_TK))
    return _pairs(ids_TK, later_TK, n_experts)


def relevance_over_layers(
    ids_TLK: np.ndarray, weights_TLK: np.ndarray, *, n_experts: int | None = None
) -> Relevance:
    """Return ESFT's scores as the later release of its code has them, to 4 decimals.

    scripts/expert/generate_expert_config.py divides by sums over layers (axis 0), so scores of an
    expert add up to 1 over layers, and `top_p` no longer is a share of a layer. NaN for an expert
    that is chosen in no layer. No published result was made so.
    """
    ids_TLK, weights_TLK = np.asarray(ids_TLK), np.asarray(weights_TLK, np.float64)
    check_routing(ids_TLK, weights_TLK, n_axes=3)
    n_experts = count_experts(ids_TLK, n_experts)
    sums = [sums_of(ids_TLK[:, n], weights_TLK[:, n], n_experts) for n in range(ids_TLK.shape[1])]
    token_LE, gate_LE = (np.array(layers) for layers in zip(*sums, strict=True))
    with np.errstate(invalid="ignore"):
        return Relevance(*(np.round(part / part.sum(0), 4) for part in (token_LE, gate_LE)))


def _pairs(first: np.ndarray, second: np.ndarray, n_experts: int) -> np.ndarray:
    """Return how often each expert of `first` stands beside each of `second` (E, E)."""
    return count_rows(first.ravel(), second.ravel()[:, None], (n_experts, n_experts))
