"""Features and routing of the same tokens: the join that the map of reads is made of.

Features stay on disk and are streamed; the routing of the split is held in memory, since
permutations read it from anywhere (`L * K` bytes a token for ids of up to 256 experts, and twice
that for weights).

Axes: T valid tokens, L routing layers, E experts, K top_k, X = L * E experts of all layers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deepseemoe.activations.store import ActivationStore
from deepseemoe.experts.documents import BLOCK_TOKENS, DocumentStream, ShardSource
from deepseemoe.names import Site


class Routing(NamedTuple):
    """Which experts each token chose, and with what weight, in text order."""

    experts_TLK: np.ndarray
    weights_TLK: np.ndarray
    n_experts: int

    @property
    def n_columns(self) -> int:
        """X, the experts of all layers; expert e of layer place l is column l * E + e."""
        return self.experts_TLK.shape[1] * self.n_experts

    def chosen(self, rows: slice | np.ndarray, dtype: type = np.float64) -> np.ndarray:
        """Return 1 where a token chose an expert and 0 elsewhere, (T, X)."""
        return self._table(rows, dtype(1), dtype)

    def gates(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return the weight of each chosen expert and 0 elsewhere, float64 (T, X)."""
        weights = self.weights_TLK[rows]
        return self._table(rows, weights.reshape(weights.shape[0], -1), np.float64)

    def _table(self, rows: slice | np.ndarray, values: np.ndarray, dtype: type) -> np.ndarray:
        experts = self.experts_TLK[rows]
        columns = experts + np.arange(experts.shape[1])[:, None] * self.n_experts
        table = np.zeros((experts.shape[0], self.n_columns), dtype)
        np.put_along_axis(table, columns.reshape(experts.shape[0], -1), values, axis=1)
        return table


class Join(NamedTuple):
    """Features and routing; row t of one is row t of the other."""

    text: DocumentStream
    routing: Routing


def join(
    sources: Sequence[ShardSource],
    stores: Sequence[ActivationStore],
    *,
    layers: Sequence[int],
    n_experts: int,
    block_tokens: int = BLOCK_TOKENS,
) -> Join:
    """Return the features of some shards joined with the routing of `layers` in `stores`.

    `stores` are those the shards were encoded from, in the same order. Raises ValueError where they
    are not, or where they name more experts than the model has.
    """
    if len(sources) != len(stores):
        raise ValueError(
            f"{len(sources)} feature shards but {len(stores)} activation stores; give the store of "
            "each shard, in the same order"
        )
    text = DocumentStream(sources, block_tokens=block_tokens)
    pairs = zip(sources, stores, strict=True)
    parts = [_routing(n, source, store, layers) for n, (source, store) in enumerate(pairs)]
    experts, weights = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if experts.max() >= n_experts:
        raise ValueError(
            f"the stores name expert {experts.max()}, but the model has {n_experts}; cache the "
            "activations with this model (cache_activations)"
        )
    return Join(text, Routing(experts, weights, n_experts))


def _routing(
    place: int, source: ShardSource, store: ActivationStore, layers: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return experts and weights (T, L, K) of a shard's valid rows, in text order."""
    shard, order = source(), store.text_order()
    if not np.array_equal(store["doc_id"].whole()[order], shard.doc_ids):
        raise ValueError(
            f"shard {place}: features ({shard.n_tokens} tokens) and routing ({store.n_tokens}) are "
            "of different text; encode the features from this store (encode_features)"
        )
    rows = order[shard.is_valid]
    ids, weights = (
        np.stack([store[str(Site(kind, layer))].whole()[rows] for layer in layers], axis=1)
        for kind in ("expert_ids", "expert_weights")
    )
    return ids, weights
