"""Stores whose layers do not belong together: the null in which no feature can span layers.

Each layer's rows are put in an order of its own, so every layer keeps its distribution and no two
share a token. Rows move within chunks, whose rows are of random places in the text already; reading
stays as fast as it was, and a token meets itself with a chance of 1 / chunk_tokens.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseemoe.activations.reader import MappedArray
from deepseemoe.activations.store import ActivationStore, Statistics
from deepseemoe.runtime.seeds import generator


class ShuffledStore:
    """An `ActivationStore` to train and evaluate on, valid rows of each site permuted by chunk."""

    def __init__(self, store: ActivationStore, *, seed: int) -> None:
        self.path, self.n_tokens, self.sites = store.path, store.n_tokens, store.sites
        self.manifest: dict[str, Any] = store.manifest | {"shuffled": seed}
        self._store, self._seed = store, seed
        self._rows = lru_cache(maxsize=64)(self._rows_of)

    def __getitem__(self, name: str) -> MappedArray:
        return self._store[name]

    def valid_rows(self) -> NDArray[np.bool_]:
        """Return which rows are valid: the same at every layer, as valid rows stay among such."""
        return self._store.valid_rows()

    def statistics(self, site: str) -> Statistics:
        """Return the moments of a site, which no order of rows changes."""
        return self._store.statistics(site)

    def floats(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return the rows that stand in places start … stop−1 of a site."""
        rows = self.sources(name)[start:stop]
        size = self._store[name].chunk_tokens
        low, high = start // size * size, min(-(-stop // size) * size, self.n_tokens)
        return self._store.floats(name, low, high)[rows - low]

    def sources(self, name: str) -> NDArray[np.int64]:
        """Return the row that stands in each place of a site."""
        return self._rows(name)

    def _rows_of(self, name: str) -> NDArray[np.int64]:
        rng = generator(self._seed, "justify", "shuffle", str(self.path.name), name)
        chunk = np.arange(self.n_tokens) // self._store[name].chunk_tokens
        valid = np.flatnonzero(self.valid_rows())
        rows = np.arange(self.n_tokens)
        order = np.lexsort((rng.random(len(valid)), chunk[valid]))
        rows[valid] = valid[order]
        return rows
