"""Which experts are chosen together: OLMoE's equation 6 over all pairs, against lines of chance.

    P(b | a) = n_ab / n_a            lift = n_ab n / (n_a n_b), 1 for independence

Experts of a token are distinct, so a router without any liking has a lift below 1: `chance_lift_EE`
has it for the loads that are found (chance.py), and `excess_EE` = lift / chance_lift is 1 there.

Axes: T tokens, K top_k, G groups of documents, E experts.
"""

from typing import NamedTuple

import numpy as np

from deepseemoe.routing.arrays import check_labels, check_routing, count_experts
from deepseemoe.routing.bootstrap import N_GROUPS, lift_intervals
from deepseemoe.routing.chance import chance_pairs
from deepseemoe.routing.counts import count_pairs


class Coactivation(NamedTuple):
    """Pairs of experts (E, E); NaN on the diagonal, and where one of two is never chosen."""

    n_tokens_EE: np.ndarray
    p_b_given_a_EE: np.ndarray
    lift_EE: np.ndarray
    lift_lo_EE: np.ndarray
    lift_hi_EE: np.ndarray
    chance_lift_EE: np.ndarray
    excess_EE: np.ndarray


def coactivation(
    ids_TK: np.ndarray,
    n_experts: int | None = None,
    *,
    document_T: np.ndarray | None = None,
    seed: int = 0,
) -> Coactivation:
    """Return how often experts of a layer are chosen by the same token; intervals need documents.

    Raises ValueError where arrays do not fit together.
    """
    ids_TK = np.asarray(ids_TK)
    check_routing(ids_TK)
    n_experts = count_experts(ids_TK, n_experts)
    group_T = group_tokens(document_T, len(ids_TK))
    pairs_GEE = count_pairs(ids_TK, ids_TK, n_experts, group_T=group_T, n_groups=N_GROUPS)
    return coactivation_of(pairs_GEE, np.bincount(group_T, minlength=N_GROUPS), seed=seed)


def group_tokens(document_T: np.ndarray | None, n_tokens: int) -> np.ndarray:
    """Return the group (T,) of each token's document; one group where documents are not known."""
    if document_T is None:
        return np.zeros(n_tokens, np.int32)
    place_T = np.unique(check_labels(document_T, n_tokens, "document_T"), return_inverse=True)[1]
    return (place_T % N_GROUPS).astype(np.int32)


def coactivation_of(pairs_GEE: np.ndarray, tokens_G: np.ndarray, *, seed: int) -> Coactivation:
    """Return co-activation from the counts of each group, the experts' own on the diagonal."""
    n_experts, n_tokens = pairs_GEE.shape[1], int(tokens_G.sum())
    both_EE = pairs_GEE.sum(0)
    chosen_E = both_EE.diagonal().astype(np.float64)
    is_pair = np.outer(chosen_E > 0, chosen_E > 0) & ~np.eye(n_experts, dtype=bool)
    a, b = np.nonzero(np.triu(is_pair))
    chosen_GE = np.diagonal(pairs_GEE, axis1=1, axis2=2)
    halves = lift_intervals(
        pairs_GEE[:, a, b], chosen_GE[:, a], chosen_GE[:, b], tokens_G, seed=seed
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        p_EE = both_EE / chosen_E[:, None]
        lift_EE = p_EE * n_tokens / chosen_E
        chance_EE = chance_pairs(chosen_E / n_tokens) * n_tokens**2 / np.outer(chosen_E, chosen_E)
        excess_EE = lift_EE / np.where(chance_EE > 0, chance_EE, np.nan)
    floats = (
        p_EE,
        lift_EE,
        *(_symmetric(v, a, b, n_experts) for v in halves),
        chance_EE,
        excess_EE,
    )
    return Coactivation(both_EE, *(np.where(is_pair, values, np.nan) for values in floats))


def _symmetric(values: np.ndarray, a: np.ndarray, b: np.ndarray, n_experts: int) -> np.ndarray:
    """Return a table (E, E) with each pair's value on both sides."""
    table_EE = np.full((n_experts, n_experts), np.nan)
    table_EE[a, b] = table_EE[b, a] = values
    return table_EE
