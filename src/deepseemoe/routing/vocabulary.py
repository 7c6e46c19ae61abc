"""Whether experts are for tokens: OLMoE's equation 8, of tokens that are read or predicted.

    P(e | x) = occurrences of x that choose e / occurrences of x         chance: the share of e

Tokens are those the router reads, or those that follow them ("next"): what a late layer prepares.
A layer as a whole has I(token; expert) in bits, the expert being one of a token's top_k at random,
and `top_share`, the mean over types of the share of their favourite expert. Rare types have a
favourite by chance, so both are set beside the same for shuffled tokens, and types below
`min_count` occurrences are left out.

Axes: T tokens, V kept types, K top_k, E experts, P shuffles or draws.
"""

from typing import NamedTuple

import numpy as np

from deepseemoe.routing.arrays import check_labels, check_routing, count_experts
from deepseemoe.routing.counts import count_rows
from deepseemoe.routing.information import mutual_information
from deepseemoe.runtime.seeds import generator

N_SHUFFLES = 3
"""Means over all types hardly differ between shuffles."""


class Vocabulary(NamedTuple):
    """How types of tokens choose experts (V, E), and the layer's measures with their chance."""

    token_V: np.ndarray
    occurrences_V: np.ndarray
    n_tokens_VE: np.ndarray
    p_VE: np.ndarray
    lift_VE: np.ndarray
    bits: float
    chance_bits: float
    top_share: float
    chance_top_share: float


class Measures(NamedTuple):
    """I(token; expert) in bits, and the mean share of a type's favourite expert."""

    bits: float
    top_share: float


def vocabulary(
    ids_TK: np.ndarray,
    token_T: np.ndarray,
    n_experts: int | None = None,
    *,
    min_count: int = 10,
    seed: int = 0,
) -> Vocabulary:
    """Return equation 8 of a layer; tokens below 0 (no next token) are left out.

    For predicted tokens give the tokens that follow. Raises ValueError where arrays do not fit
    together, or no type occurs `min_count` times.
    """
    ids_TK, token_T = np.asarray(ids_TK), np.asarray(token_T)
    check_routing(ids_TK)
    check_labels(token_T, len(ids_TK), "token_T")
    n_experts = count_experts(ids_TK, n_experts)
    occurrences = np.bincount(token_T[token_T >= 0])
    kept_V = np.flatnonzero(occurrences >= min_count)
    if not kept_V.size:
        raise ValueError(f"token_T: no token occurs {min_count} times; lower min_count")
    place_of_type = np.full(occurrences.size + 1, -1)  # the last is where -1 points to
    place_of_type[kept_V] = np.arange(kept_V.size)
    top_k = ids_TK.shape[1]
    place_T, shape = place_of_type[np.maximum(token_T, -1)], (kept_V.size, n_experts)
    counts_VE = count_rows(place_T, ids_TK, shape)
    chances = [
        measure(count_rows(shuffled(place_T, seed, n), ids_TK, shape), top_k)
        for n in range(N_SHUFFLES)
    ]
    p_VE = counts_VE / occurrences[kept_V, None]
    share_E = np.bincount(ids_TK.ravel(), minlength=n_experts) / len(ids_TK)
    lift_VE = p_VE / np.where(share_E > 0, share_E, np.nan)
    bits, top_share = measure(counts_VE, top_k)
    chance = Measures(*np.mean(chances, axis=0).tolist())
    return Vocabulary(
        kept_V, occurrences[kept_V], counts_VE, p_VE, lift_VE,
        bits, chance.bits, top_share, chance.top_share,
    )  # fmt: skip


def measure(counts_VE: np.ndarray, top_k: int) -> Measures:
    """Return the measures of a layer from the tokens of each type that choose each expert.

    Types that a draw of documents has none of are left out; NaN where it has none at all.
    """
    counts_VE = counts_VE[counts_VE.any(axis=1)]
    if not counts_VE.size:
        return Measures(np.nan, np.nan)
    share_V = counts_VE.max(1) * top_k / counts_VE.sum(1)
    return Measures(float(mutual_information(counts_VE)), float(share_V.mean()))


def shuffled(place_T: np.ndarray, seed: int, *purpose: object) -> np.ndarray:
    """Return which kept type each token is of, shuffled among the tokens of kept types."""
    is_kept = place_T >= 0
    places_T = place_T.copy()
    places_T[is_kept] = generator(seed, "shuffle tokens", *purpose).permutation(place_T[is_kept])
    return places_T
