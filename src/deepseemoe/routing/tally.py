"""Counting what a router did, shard by shard; where rows lie in the text does not matter.

Axes: T valid tokens of a shard, D its documents, C domains, B bootstrap draws (the first is the
data itself), V token types that are kept, E experts, K top_k.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deepseemoe.activations.store import ActivationStore
from deepseemoe.names import Site
from deepseemoe.runtime.seeds import generator

CHUNK_TOKENS = 1 << 16
"""Rows of a dense (T, E) table; float32 counts of so few rows are exact."""


class ShardRows(NamedTuple):
    """What is known of a shard's valid rows before any layer is read."""

    store: ActivationStore
    is_valid: np.ndarray
    token_place_T: np.ndarray
    document_T: np.ndarray
    domain_D: np.ndarray
    draws_DB: np.ndarray


class Text(NamedTuple):
    """What all layers share: the valid tokens of the split, and what they are called."""

    n_tokens: int
    kept_tokens_V: np.ndarray
    occurrences_V: np.ndarray
    token_texts: Sequence[str]
    domains: Sequence[str]
    tokens_CB: np.ndarray
    documents_C: np.ndarray


class Tally(NamedTuple):
    """Counts of one layer. `both_EE` has the tokens of each expert on its diagonal."""

    both_EE: np.ndarray
    weight_E: np.ndarray
    tokens_VE: np.ndarray
    domains_CBE: np.ndarray


def count_values(stores: Sequence[ActivationStore], name: str, n_values: int) -> np.ndarray:
    """Return how often each value of `token_id` or `doc_id` stands on a valid row (n_values,)."""
    values = (store[name].whole()[store.valid_rows()] for store in stores)
    return sum(np.bincount(shard, minlength=n_values) for shard in values)


def read_rows(
    store: ActivationStore,
    *,
    kept_tokens: np.ndarray,
    n_types: int,
    domain_of_doc: np.ndarray,
    n_draws: int,
    seed: int,
) -> ShardRows:
    """Return the valid rows of a shard: which kept token, document and domain each is of."""
    is_valid = store.valid_rows()
    place_of_type = np.full(n_types, -1, np.int64)
    place_of_type[kept_tokens] = np.arange(kept_tokens.size)
    documents, document_T = np.unique(store["doc_id"].whole()[is_valid], return_inverse=True)
    return ShardRows(
        store,
        is_valid,
        place_of_type[store["token_id"].whole()[is_valid]],
        document_T,
        domain_of_doc[documents],
        bootstrap_weights(documents, n_draws, seed),
    )


def bootstrap_weights(documents: np.ndarray, n_draws: int, seed: int) -> np.ndarray:
    """Return how often each document is drawn, (D, 1 + n_draws), with ones in front.

    Poisson(1) weights, the bootstrap of streams (Hanley and MacGibbon 2006): they hang on the
    document alone, so that one that goes on in the next shard has the same weights there.
    """
    weights = np.ones((documents.size, 1 + n_draws), np.uint8)
    for place, document in enumerate(documents.tolist()):
        weights[place, 1:] = generator(seed, "bootstrap", document).poisson(1.0, n_draws)
    return weights


def domain_tokens(shards: Sequence[ShardRows], n_domains: int) -> np.ndarray:
    """Return the tokens of each domain in each draw (C, B), counting drawn documents as drawn."""
    counts = (np.bincount(rows.document_T, minlength=rows.domain_D.size) for rows in shards)
    parts = (
        _by_domain(rows, count_D[:, None], n_domains)
        for rows, count_D in zip(shards, counts, strict=True)
    )
    return sum(parts)[..., 0]


def tally(shards: Sequence[ShardRows], layer: int, text: Text, *, n_experts: int) -> Tally:
    """Return the counts of one layer over all shards."""
    parts = [_tally_shard(rows, layer, text, n_experts) for rows in shards]
    return Tally(*(sum(arrays) for arrays in zip(*parts, strict=True)))


def _tally_shard(rows: ShardRows, layer: int, text: Text, n_experts: int) -> Tally:
    ids_TK, weights_TK = (
        rows.store[str(Site(kind, layer))].whole()[rows.is_valid]
        for kind in ("expert_ids", "expert_weights")
    )
    counts_DE = _cross(rows.document_T, ids_TK, (rows.domain_D.size, n_experts))
    is_kept = rows.token_place_T >= 0
    shape_VE = text.kept_tokens_V.size, n_experts
    return Tally(
        _coactivation(ids_TK, n_experts),
        np.bincount(ids_TK.ravel(), weights_TK.ravel().astype(np.float64), n_experts),
        _cross(rows.token_place_T[is_kept], ids_TK[is_kept], shape_VE),
        _by_domain(rows, counts_DE, len(text.domains)),
    )


def _coactivation(ids_TK: np.ndarray, n_experts: int) -> np.ndarray:
    """Return how many tokens choose both of two experts (E, E), all pairs of a token's top k."""
    both_EE = np.zeros((n_experts, n_experts), np.int64)
    for start in range(0, len(ids_TK), CHUNK_TOKENS):
        chunk_TK = ids_TK[start : start + CHUNK_TOKENS].astype(np.int64)
        chosen_TE = np.zeros((len(chunk_TK), n_experts), np.float32)
        np.put_along_axis(chosen_TE, chunk_TK, 1.0, axis=1)
        both_EE += (chosen_TE.T @ chosen_TE).astype(np.int64)
    return both_EE


def _cross(row_T: np.ndarray, ids_TK: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return how often each row number meets each expert."""
    key_TK = row_T[:, None] * shape[1] + ids_TK
    return np.bincount(key_TK.ravel(), minlength=shape[0] * shape[1]).reshape(shape)


def _by_domain(rows: ShardRows, counts_DE: np.ndarray, n_domains: int) -> np.ndarray:
    """Return counts of documents added up by domain, in every draw: (C, B, E)."""
    n_draws = rows.draws_DB.shape[1]
    sums = np.zeros((n_domains, n_draws, counts_DE.shape[1]))
    for domain in np.unique(rows.domain_D):
        here = rows.domain_D == domain
        sums[domain] = rows.draws_DB[here].T.astype(np.float64) @ counts_DE[here]
    return sums
