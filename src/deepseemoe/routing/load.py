"""How evenly a router spreads tokens over experts, and how sharply it decides on one token.

    share_e = tokens that choose e / tokens            chance: top_k / E
    entropy = H(share / top_k) bits                    chance: log2 E, for a uniform load
    effective = 2^entropy experts                      as many equally used ones have this entropy

Axes: T tokens, K top_k, E experts, D documents, B draws (the first is the data).
"""

from typing import NamedTuple

import numpy as np

from deepseemoe.routing.arrays import check_labels, check_routing, count_experts
from deepseemoe.routing.bootstrap import bootstrap_weights, interval_of, weighted_sums
from deepseemoe.routing.counts import count_rows
from deepseemoe.routing.information import entropy_bits


class Load(NamedTuple):
    """The load of each expert and of the whole layer; intervals are NaN without documents.

    `load_E` is share over chance, 1 for a uniform load; `weight_share_E` is of all gate weight.
    """

    n_tokens_E: np.ndarray
    share_E: np.ndarray
    share_lo_E: np.ndarray
    share_hi_E: np.ndarray
    load_E: np.ndarray
    weight_share_E: np.ndarray
    entropy: float
    entropy_lo: float
    entropy_hi: float
    effective: float


def load(
    ids_TK: np.ndarray,
    n_experts: int | None = None,
    *,
    weights_TK: np.ndarray | None = None,
    document_T: np.ndarray | None = None,
    n_draws: int = 200,
    seed: int = 0,
) -> Load:
    """Return the load of the experts of one layer, from the experts each token chose.

    `weights_TK` gives shares of gate weight, `document_T` intervals. Raises ValueError where arrays
    do not fit together.
    """
    ids_TK = np.asarray(ids_TK)
    check_routing(ids_TK, None if weights_TK is None else np.asarray(weights_TK))
    n_experts = count_experts(ids_TK, n_experts)
    place_T, draws_DB = document_draws(document_T, len(ids_TK), n_draws, seed)
    counts_DE = count_rows(place_T, ids_TK, (len(draws_DB), n_experts))
    weight_E = np.full(n_experts, np.nan)
    if weights_TK is not None:
        values = np.asarray(weights_TK, np.float64).ravel()
        weight_E = np.bincount(ids_TK.ravel(), values, n_experts)
    tokens_D = np.bincount(place_T, minlength=len(draws_DB))
    return load_of(counts_DE, tokens_D, draws_DB, weight_E=weight_E, top_k=ids_TK.shape[1])


def document_draws(
    document_T: np.ndarray | None, n_tokens: int, n_draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return each token's document, numbered from 0, and the draws; one if none are known."""
    if document_T is None:
        return np.zeros(n_tokens, np.int64), np.ones((1, 1), np.uint8)
    documents, place_T = np.unique(
        check_labels(document_T, n_tokens, "document_T"), return_inverse=True
    )
    return place_T, bootstrap_weights(documents, n_draws if documents.size > 1 else 0, seed)


def load_of(
    counts_DE: np.ndarray,
    tokens_D: np.ndarray,
    draws_DB: np.ndarray,
    *,
    weight_E: np.ndarray,
    top_k: int,
) -> Load:
    """Return the load from the tokens of each document that choose each expert."""
    counts_BE = weighted_sums(counts_DE, draws_DB)
    n_tokens_B = weighted_sums(tokens_D[:, None], draws_DB)
    share_BE = counts_BE / np.where(n_tokens_B > 0, n_tokens_B, np.nan)
    entropy_B = entropy_bits(counts_BE)
    low_E, high_E = interval_of(share_BE)
    entropy_low, entropy_high = interval_of(entropy_B)
    return Load(
        counts_DE.sum(0),
        share_BE[0],
        low_E,
        high_E,
        share_BE[0] * counts_DE.shape[1] / top_k,
        weight_E / weight_E.sum(),
        float(entropy_B[0]),
        float(entropy_low),
        float(entropy_high),
        float(2 ** entropy_B[0]),
    )


def gate_entropy(weights_TK: np.ndarray) -> np.ndarray:
    """Return the entropy (T,) in bits of each token's gate weights, scaled to add up to 1.

    0 where one expert has all the weight, log2(top_k) where all have the same; NaN without weight.
    """
    return entropy_bits(np.asarray(weights_TK, np.float64))


def router_entropy(logits_TE: np.ndarray) -> np.ndarray:
    """Return the entropy (T,) in bits of the softmax over all experts of each token's logits.

    Of families that score with a sigmoid, or add a bias to choose, it is that of their raw logits.
    """
    logits_TE = np.asarray(logits_TE, np.float64)
    odds_TE = np.exp(logits_TE - logits_TE.max(axis=1, keepdims=True))
    return entropy_bits(odds_TE)
