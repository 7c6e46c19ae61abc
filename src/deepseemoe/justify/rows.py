"""Valid rows of stores, up to a number of tokens, and what is known of each token.

Axes: T tokens, L layers of the window, D d_model, K top_k.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepseemoe.activations.store import ActivationStore
from deepseemoe.justify.shuffled import ShuffledStore

BLOCK_TOKENS = 4096
NO_TOKEN = -1
"""The token before the first of a document."""


class Tokens(NamedTuple):
    """What is known of each valid row, in the order of the rows."""

    documents: NDArray[np.int64]
    token_ids: NDArray[np.int64]
    before: NDArray[np.int64]
    """The token that stands before it in its segment, or NO_TOKEN."""


class Rows:
    """The first `max_tokens` rows of some stores, those of them that are valid.

    Row windows are permuted, so these are not the first documents of the text, but whole ones
    mostly: a window holds about its number of tokens of neighbouring text.
    """

    def __init__(self, stores: Sequence[ActivationStore], *, max_tokens: int) -> None:
        self.stores, self._stops, left = [], [], max_tokens
        for store in stores:
            if left > 0:
                self.stores.append(store)
                self._stops.append(min(left, store.n_tokens))
                left -= store.n_tokens
        self._kept = [
            np.flatnonzero(store.valid_rows()[:stop])
            for store, stop in zip(self.stores, self._stops, strict=True)
        ]
        self.n_valid = sum(map(len, self._kept))
        if self.n_valid == 0:
            raise ValueError("the stores hold no valid token; cache more text")

    def tokens(self) -> Tokens:
        """Return documents and tokens of all valid rows."""
        pieces = [
            (store["doc_id"].whole()[kept], store["token_id"].whole()[kept], _before(store)[kept])
            for store, kept in zip(self.stores, self._kept, strict=True)
        ]
        return Tokens(
            *(np.concatenate(parts).astype(np.int64) for parts in zip(*pieces, strict=True))
        )

    def array(self, name: str) -> NDArray[np.int64]:
        """Return an integer array of all valid rows, such as `expert_ids/L01`."""
        pieces = [
            store[name].read(0, stop)[kept]
            for store, stop, kept in zip(self.stores, self._stops, self._kept, strict=True)
        ]
        return np.concatenate(pieces).astype(np.int64)

    def documents_at(self, name: str, seed: int) -> NDArray[np.int64]:
        """Return the document of each valid row of a site whose rows are shuffled."""
        pieces = []
        for store, kept in zip(self.stores, self._kept, strict=True):
            sources = ShuffledStore(store, seed=seed).sources(name)[kept]
            pieces.append(store["doc_id"].whole()[sources])
        return np.concatenate(pieces).astype(np.int64)

    def shuffled(self, seed: int) -> "Rows":
        """Return the same rows with layers that do not belong together."""
        other = object.__new__(Rows)
        other.stores = [ShuffledStore(store, seed=seed) for store in self.stores]
        other._stops, other._kept, other.n_valid = self._stops, self._kept, self.n_valid
        return other

    def blocks(self, sites: Sequence[str]) -> Iterator[tuple[slice, Tensor]]:
        """Yield which of the valid rows come next, and their raw activations (T, L, D)."""
        first = 0
        for store, stop, kept in zip(self.stores, self._stops, self._kept, strict=True):
            for start in range(0, stop, BLOCK_TOKENS):
                end = min(start + BLOCK_TOKENS, stop)
                own = kept[(kept >= start) & (kept < end)] - start
                if len(own):
                    values = [store.floats(name, start, end)[own] for name in sites]
                    yield (
                        slice(first, first + len(own)),
                        torch.from_numpy(np.stack(values, axis=1)),
                    )
                    first += len(own)


def _before(store: ActivationStore) -> NDArray[np.int64]:
    """Return the token before each row of a store, in the order of its rows."""
    order = store.text_order()
    ids = store["token_id"].whole()[order].astype(np.int64)
    opens = store["position"].whole()[order] == 0
    before = np.empty(store.n_tokens, np.int64)
    before[order] = np.where(opens, NO_TOKEN, np.concatenate([[NO_TOKEN], ids[:-1]]))
    return before
