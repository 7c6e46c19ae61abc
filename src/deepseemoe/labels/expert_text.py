"""The test text as experts see it: which tokens each one was sent, and which features fire there.

Whole documents, both halves apart. Longer texts are cut to MAX_TOKENS a half, by documents in an
order that depends on their numbers alone; rules need no more, and memory stays bounded.

Axes: T tokens, L layers, K top_k, E experts, F features that are asked for.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse

from deepseemoe.activations.store import ActivationStore
from deepseemoe.corpus.documents import domains_of
from deepseemoe.experts.documents import read_rows
from deepseemoe.features.halves import is_explaining, mixed
from deepseemoe.features.store import FeatureShard
from deepseemoe.features.tokens import token_texts
from deepseemoe.labels.counts import Firing
from deepseemoe.labels.reading import BoolArray, IntArray, Reading, Vocabulary
from deepseemoe.names import Site

MAX_TOKENS = 1 << 20
"""Tokens of either half that descriptions are made from and scored on."""


class RoutedText(NamedTuple):
    """T tokens in text order with the experts they chose; `reading.is_valid` says which count."""

    reading: Reading
    layers: tuple[int, ...]
    experts_TLK: np.ndarray
    weights_TLK: np.ndarray
    features: IntArray
    """(F,) features of the columns of `features_TF`, in rising order"""
    features_TF: sparse.csr_array

    def only(self, chosen_T: BoolArray) -> "RoutedText":
        """Return the tokens of some whole documents."""
        return self._replace(
            reading=self.reading.only(chosen_T),
            experts_TLK=self.experts_TLK[chosen_T],
            weights_TLK=self.weights_TLK[chosen_T],
            features_TF=self.features_TF[chosen_T],
        )

    def halves(self) -> tuple["RoutedText", "RoutedText"]:
        """Return the explaining and the scoring documents."""
        is_explaining_T = is_explaining(self.reading.doc_ids)
        explaining, scoring = self.only(is_explaining_T), self.only(~is_explaining_T)
        shared = np.intersect1d(explaining.reading.doc_ids, scoring.reading.doc_ids)
        assert not len(shared), f"documents {shared} explain and score at once"
        return explaining, scoring

    def of_layer(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Return experts and gate weights (T, K) of a layer."""
        place = self.layers.index(layer)
        return self.experts_TLK[:, place], self.weights_TLK[:, place]

    def routed(self, layer: int, n_experts: int) -> Firing:
        """Return where each expert of a layer is chosen, as if it were a feature that fires."""
        experts_TK, _ = self.of_layer(layer)
        places = np.flatnonzero(self.reading.is_valid)
        experts = experts_TK[places].ravel().astype(np.int64)
        order = np.argsort(experts, kind="stable")
        starts = np.searchsorted(experts[order], np.arange(n_experts + 1))
        chosen = np.repeat(places, experts_TK.shape[1])[order]
        return Firing(starts, chosen, len(places))

    def chosen(self, layer: int, n_experts: int) -> BoolArray:
        """Return (T, E): which experts each token chose; none where it is not valid."""
        experts_TK, _ = self.of_layer(layer)
        chosen_TE = np.zeros((len(experts_TK), n_experts), bool)
        np.put_along_axis(chosen_TE, experts_TK.astype(np.int64), True, axis=1)
        return chosen_TE & self.reading.is_valid[:, None]


def read_routed(
    shards: Sequence[Path],
    stores: Sequence[Path],
    *,
    layers: Sequence[int],
    features: Sequence[int],
    documents: Path,
    tokenizer: Path,
    max_tokens: int = MAX_TOKENS,
) -> RoutedText:
    """Return the text of feature shards with the routing in the stores they were encoded from.

    Raises ValueError where shards and stores are not of the same text.
    """
    if len(shards) != len(stores):
        raise ValueError(
            f"{len(shards)} feature shards but {len(stores)} activation stores; give the store of "
            "each shard, in the same order"
        )
    wanted = np.unique(np.asarray(features, np.int64))
    names, domain_of = domains_of(documents)
    sources = [partial(FeatureShard.open, path) for path in shards]
    kept = choose_documents(np.concatenate([source().doc_ids for source in sources]), max_tokens)
    parts = [
        _read(path, source(), store, kept, layers, wanted)
        for path, source, store in zip(shards, sources, stores, strict=True)
    ]
    joined = [
        np.concatenate(columns) for columns in zip(*(part[:-1] for part in parts), strict=True)
    ]
    token_ids, doc_ids, positions, is_valid, experts_TLK, weights_TLK = joined
    reading = Reading(
        vocabulary=Vocabulary(token_texts(tokenizer)),
        domain_names=names,
        token_ids=token_ids,
        doc_ids=doc_ids,
        positions=positions,
        is_valid=is_valid,
        domains=np.asarray(domain_of)[doc_ids],
    )
    features_TF = sparse.vstack([part[-1] for part in parts], format="csr")
    return RoutedText(reading, tuple(layers), experts_TLK, weights_TLK, wanted, features_TF)


def choose_documents(doc_ids_T: IntArray, max_tokens: int) -> IntArray:
    """Return the documents that are used: of either half as many as fit, at least one."""
    documents, n_tokens = np.unique(doc_ids_T, return_counts=True)
    kept = []
    for own in (is_explaining(documents), ~is_explaining(documents)):
        order = np.argsort(mixed(documents[own]), kind="stable")
        fits = np.cumsum(n_tokens[own][order]) <= max_tokens
        fits[:1] = True
        kept.append(documents[own][order][fits])
    return np.sort(np.concatenate(kept))


def _read(
    path: Path,
    shard: FeatureShard,
    store_path: Path,
    kept: IntArray,
    layers: Sequence[int],
    features: IntArray,
) -> tuple:
    store = ActivationStore(store_path)
    order = store.text_order()
    if not np.array_equal(store["doc_id"].whole()[order], shard.doc_ids):
        raise ValueError(
            f"{path}: features ({shard.n_tokens} tokens) and routing ({store.n_tokens}) are of "
            "different text; encode the features from this store (encode_features)"
        )
    is_kept_T = np.isin(shard.doc_ids, kept)
    rows = order[is_kept_T]
    ids_TLK, weights_TLK = (
        np.stack([store[str(Site(kind, layer))].whole()[rows] for layer in layers], axis=1)
        for kind in ("expert_ids", "expert_weights")
    )
    columns = (shard.token_ids, shard.doc_ids, shard.positions, shard.is_valid.astype(bool))
    return (
        *(column[is_kept_T] for column in columns),
        ids_TLK,
        weights_TLK,
        read_rows(shard, features, is_kept_T),
    )
