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
from deepseemoe.experts.logits import RouterLogits
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

    def columns(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return the columns in X of the experts that tokens chose, int32 (T, L * K)."""
        experts = self.experts_TLK[rows]
        shift = np.arange(experts.shape[1], dtype=np.int32)[:, None] * self.n_experts
        return (experts + shift).reshape(experts.shape[0], -1)

    def gates_of(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return the weights of those experts, float32 (T, L * K)."""
        weights = self.weights_TLK[rows]
        return weights.reshape(weights.shape[0], -1).astype(np.float32)

    def chosen(self, rows: slice | np.ndarray, dtype: type = np.float64) -> np.ndarray:
        """Return 1 where a token chose an expert and 0 elsewhere, (T, X)."""
        columns = self.columns(rows)
        table = np.zeros((columns.shape[0], self.n_columns), dtype)
        np.put_along_axis(table, columns, dtype(1), axis=1)
        return table

    def layers(self, places: slice) -> "Routing":
        """Return the routing of some layers, without a copy."""
        return self._replace(
            experts_TLK=self.experts_TLK[:, places], weights_TLK=self.weights_TLK[:, places]
        )


class Join(NamedTuple):
    """Features and routing; row t of one is row t of the other. `logits` where stores hold them."""

    text: DocumentStream
    routing: Routing
    logits: RouterLogits | None = None

    def layers(self, places: slice) -> "Join":
        """Return the same text with the routing of some layers."""
        logits = self.logits and self.logits.over(places)
        return Join(self.text, self.routing.layers(places), logits)


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
    experts, weights = (np.concatenate(arrays) for arrays in list(zip(*parts, strict=True))[:2])
    if experts.max() >= n_experts:
        raise ValueError(
            f"the stores name expert {experts.max()}, but the model has {n_experts}; cache the "
            "activations with this model (cache_activations)"
        )
    logits = RouterLogits.of(stores, [rows for *_, rows in parts], layers)
    return Join(text, Routing(experts, weights, n_experts), logits)


def _routing(
    place: int, source: ShardSource, store: ActivationStore, layers: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return experts and weights (T, L, K) of a shard's valid rows in text order, and the rows."""
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
    return ids, weights, rows
