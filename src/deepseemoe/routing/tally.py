"""Counting what the router of one layer did, shard by shard.

Where shards begin and end changes no count, and sums of weights in their last bits alone.

Axes: T valid tokens of a shard, D documents, G groups of documents, V token types that are kept, E
experts, K top_k.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from deepseemoe.routing.bootstrap import N_GROUPS
from deepseemoe.routing.counts import count_pairs, count_rows
from deepseemoe.routing.load import gate_entropy, router_entropy
from deepseemoe.routing.text import ShardRows, Text, Types
from deepseemoe.routing.vocabulary import N_SHUFFLES, Measures, measure, shuffled

N_VOCABULARY_DRAWS = 20
"""Draws of documents behind the standard errors of measures of vocabulary: each is a recount."""

CHUNK_TOKENS = 1 << 16


class Tally(NamedTuple):
    """Counts of one layer. `pairs_GEE` has the tokens of each expert on its diagonals.

    `gate_bits_D` and `router_bits_D` are sums over a document's tokens; the latter is None where
    stores hold no logits.
    """

    pairs_GEE: np.ndarray
    counts_DE: np.ndarray
    weights_DE: np.ndarray
    gate_bits_D: np.ndarray
    router_bits_D: np.ndarray | None


class TokenTally(NamedTuple):
    """Counts of one layer by token, what shuffled tokens give, and draws of documents."""

    counts_VE: np.ndarray
    shuffles: Sequence[Measures]
    draws: Sequence[Measures]


def tally(text: Text, layer: int, *, n_experts: int) -> Tally:
    """Return the counts of one layer over all shards."""
    parts = [_tally_shard(text, rows, layer, n_experts) for rows in text.shards]
    columns = zip(*parts, strict=True)
    return Tally(*(None if part[0] is None else sum(part) for part in columns))


def _tally_shard(text: Text, rows: ShardRows, layer: int, n_experts: int) -> Tally:
    ids_TK, weights_TK = (rows.read(kind, layer) for kind in ("expert_ids", "expert_weights"))
    n_documents = text.tokens_D.size
    group_T = text.group_D[rows.document_T]
    key_TK = rows.document_T[:, None].astype(np.int64) * n_experts + ids_TK
    weights_DE = np.bincount(key_TK.ravel(), weights_TK.ravel(), n_documents * n_experts)
    return Tally(
        count_pairs(ids_TK, ids_TK, n_experts, group_T=group_T, n_groups=N_GROUPS),
        count_rows(rows.document_T, ids_TK, (n_documents, n_experts)),
        weights_DE.reshape(n_documents, n_experts),
        _sum_documents(rows, n_documents, lambda part: gate_entropy(weights_TK[part])),
        _router_bits(rows, layer, n_documents),
    )


def _router_bits(rows: ShardRows, layer: int, n_documents: int) -> np.ndarray | None:
    if not rows.has("router_logits", layer):
        return None
    logits_TE = rows.read("router_logits", layer)
    return _sum_documents(rows, n_documents, lambda part: router_entropy(logits_TE[part]))


def _sum_documents(
    rows: ShardRows, n_documents: int, values: Callable[[slice], np.ndarray]
) -> np.ndarray:
    """Return the sum over each document's tokens of what is computed a run of tokens at a time."""
    sums_D = np.zeros(n_documents)
    for start in range(0, rows.rows_T.size, CHUNK_TOKENS):
        part = slice(start, start + CHUNK_TOKENS)
        sums_D += np.bincount(rows.document_T[part], values(part), n_documents)
    return sums_D


def tally_tokens(
    text: Text, types: Types, tokens: Sequence[np.ndarray], layer: int, *, n_experts: int, seed: int
) -> TokenTally:
    """Return the counts of one layer by kept token, of `tokens` (T,) of each shard."""
    shape = types.kept_V.size, n_experts
    places = [types.place_of(token_T) for token_T in tokens]
    ids = [rows.read("expert_ids", layer) for rows in text.shards]
    top_k = ids[0].shape[1]

    def count(places: Sequence[np.ndarray], draw: int = 0) -> np.ndarray:
        return sum(
            count_rows(place_T, ids_TK, shape, text.draws_DB[rows.document_T, draw])
            for place_T, ids_TK, rows in zip(places, ids, text.shards, strict=True)
        )

    shuffles = [
        measure(count([shuffled(one, seed, n, shard) for shard, one in enumerate(places)]), top_k)
        for n in range(N_SHUFFLES)
    ]
    n_draws = min(N_VOCABULARY_DRAWS, text.draws_DB.shape[1] - 1)
    draws = [measure(count(places, draw), top_k) for draw in range(1, 1 + n_draws)]
    return TokenTally(count(places), shuffles, draws)
