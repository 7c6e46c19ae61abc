"""The text that routers read: valid tokens of all shards in text order, and what is known of them.

Read once; layers then come one after the other, so that memory holds the counts of one layer.

Axes: T valid tokens of a shard, D documents of the split, V kept token types, C domains, B
bootstrap draws (the first is the data itself).
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config import RoutingConfig
from deepseemoe.corpus.documents import domains_of
from deepseemoe.features.tokens import token_texts
from deepseemoe.names import Site
from deepseemoe.routing.bootstrap import N_GROUPS, bootstrap_weights
from deepseemoe.routing.specialisation import ByDomain


class Types(NamedTuple):
    """The tokens that occur often enough, and how often."""

    kept_V: np.ndarray
    occurrences_V: np.ndarray

    def place_of(self, token_T: np.ndarray) -> np.ndarray:
        """Return which kept type each token is of (T,); -1 for others, and where there is none."""
        if not self.kept_V.size:
            return np.full(token_T.size, -1, np.int32)
        place_T = np.searchsorted(self.kept_V, token_T).clip(max=self.kept_V.size - 1)
        return np.where(self.kept_V[place_T] == token_T, place_T, -1).astype(np.int32)


class ShardRows(NamedTuple):
    """What is known of a shard's valid tokens before any layer is read, in text order.

    `next_T` is the token that follows in the same segment, -1 where none does.
    """

    store: ActivationStore
    rows_T: np.ndarray
    token_T: np.ndarray
    next_T: np.ndarray
    document_T: np.ndarray

    def read(self, kind: str, layer: int) -> np.ndarray:
        """Return a routing array of a layer at the valid tokens."""
        return self.store[str(Site(kind, layer))].whole()[self.rows_T]

    def has(self, kind: str, layer: int) -> bool:
        """Return whether the store holds this array."""
        return str(Site(kind, layer)) in self.store.names


class Text(NamedTuple):
    """What all layers share: the valid tokens of the split, and what they are called."""

    shards: Sequence[ShardRows]
    read: Types
    following: Types
    token_texts: Sequence[str]
    domains: Sequence[str]
    tokens_D: np.ndarray
    domain_D: np.ndarray
    draws_DB: np.ndarray

    @property
    def n_tokens(self) -> int:
        """Valid tokens of the split."""
        return int(self.tokens_D.sum())

    @property
    def tokens_G(self) -> np.ndarray:
        """Tokens of each group of documents (G,)."""
        return np.bincount(self.group_D, self.tokens_D, N_GROUPS)

    @property
    def group_D(self) -> np.ndarray:
        """The group of each document (D,)."""
        return np.arange(self.tokens_D.size, dtype=np.int32) % N_GROUPS

    def by_domain(self, counts_DE: np.ndarray) -> ByDomain:
        """Return counts of documents with what is known of these."""
        return ByDomain(counts_DE, self.tokens_D, self.domain_D, self.draws_DB, len(self.domains))


class Routing:
    """The routing of a split: its layers, experts and text."""

    def __init__(self, stores: Sequence[ActivationStore]):
        self.stores = stores
        self.layers = routing_layers(stores)
        self.n_experts = count_experts(stores)

    @cached_property
    def top_k(self) -> int:
        """Experts of a token."""
        return self.stores[0][str(Site("expert_ids", self.layers[0]))].shape[1]


def read_text(
    config: RoutingConfig,
    stores: Sequence[ActivationStore],
    documents: Path,
    tokenizer: Path,
    *,
    seed: int,
) -> Text:
    """Return the text of the stores.

    Raises ValueError where it has no valid token, or `documents` and `tokenizer` do not know it.
    """
    domains, domain_of_doc = domains_of(documents)
    texts = token_texts(tokenizer)
    _check_known(stores, "token_id", len(texts), tokenizer)
    _check_known(stores, "doc_id", domain_of_doc.size, documents)
    shards = [_read_shard(store) for store in stores]
    tokens_of_doc = sum(np.bincount(s.document_T, minlength=domain_of_doc.size) for s in shards)
    found = np.flatnonzero(tokens_of_doc)
    if not found.size:
        raise ValueError("no valid token in the activation stores; give the test split more tokens")
    shards = [s._replace(document_T=np.searchsorted(found, s.document_T).astype(np.int32))
              for s in shards]  # fmt: skip
    return Text(
        shards,
        _types([s.token_T for s in shards], config.min_token_count),
        _types([s.next_T for s in shards], config.min_token_count),
        texts,
        domains,
        tokens_of_doc[found],
        domain_of_doc[found],
        bootstrap_weights(found, config.n_bootstrap, seed),
    )


def routing_layers(stores: Sequence[ActivationStore]) -> tuple[int, ...]:
    """Return the layers whose routing the stores hold; raise ValueError where there is none."""
    if not stores:
        raise ValueError("no activation stores; cache those of the test split (cache_activations)")
    names = [name for name in stores[0].names if name.startswith("expert_ids/")]
    if not names:
        raise ValueError(
            f"{stores[0].path}: no expert_ids of any layer; found {', '.join(stores[0].names)}; "
            "cache the activations of a model with experts (cache_activations)"
        )
    return tuple(sorted(Site.parse(name).layer for name in names))


def count_experts(stores: Sequence[ActivationStore]) -> int:
    """Return the number of routed experts, also of those that no token chose.

    The workflow's stores name it in their manifest. Of another's, the highest expert that any token
    chose is taken for the last one.
    """
    named = {store.manifest.get("n_experts") for store in stores}
    if None not in named:
        return max(named)
    sites = [str(Site("expert_ids", layer)) for layer in routing_layers(stores)]
    return 1 + max(int(store[site].whole().max()) for store in stores for site in sites)


def _read_shard(store: ActivationStore) -> ShardRows:
    """Return the valid tokens of a shard; documents are still named by doc_id."""
    order_T = store.text_order()
    token_T, position_T = (store[name].whole()[order_T] for name in ("token_id", "position"))
    next_T = np.full(order_T.size, -1, np.int64)
    next_T[:-1] = np.where(position_T[1:] > 0, token_T[1:].astype(np.int64), -1)
    is_valid = store.valid_rows()[order_T]
    rows_T = order_T[is_valid]
    document_T = store["doc_id"].whole()[rows_T]
    return ShardRows(
        store, rows_T, token_T[is_valid], next_T[is_valid].astype(np.int32), document_T
    )


def _types(tokens: Sequence[np.ndarray], min_count: int) -> Types:
    n_types = 1 + max(int(token_T.max(initial=0)) for token_T in tokens)
    counts = sum(np.bincount(token_T[token_T >= 0], minlength=n_types) for token_T in tokens)
    kept_V = np.flatnonzero(counts >= min_count)
    return Types(kept_V, counts[kept_V])


def _check_known(stores: Sequence[ActivationStore], name: str, n_known: int, source: Path) -> None:
    """Raise ValueError where a store has ids that `source` does not know."""
    highest = max(int(store[name].whole().max(initial=0)) for store in stores)
    if highest >= n_known:
        raise ValueError(
            f"{source}: knows {name} 0 to {n_known - 1}, but the activation stores have {highest}; "
            "give files of one run"
        )
