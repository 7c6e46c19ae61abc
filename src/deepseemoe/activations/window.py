"""The rows of one window, scattered into their stored places as they arrive in text order.

Rows of a text are alike, and a chunk of neighbours is a poor sample: the mean over eight 256-token
chunks varies 13 times as much as over random rows. Permuted inside windows of 32,768 rows it is 1.1
times, and training needs no shuffle buffer. `order` keeps the way back to the text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseemoe.activations.layout import ArraySpec


class WindowBuffer:
    """Preallocated rows of every array for one window; used again for later windows."""

    def __init__(self, arrays: Sequence[ArraySpec], n_rows: int):
        """Allocate for windows of up to `n_rows`."""
        self._arrays = {
            spec.name: np.empty((n_rows, *spec.row_shape), spec.dtype) for spec in arrays
        }
        self.index = self.n_rows = self.n_filled = 0

    def start(self, index: int, first_place: int, places: NDArray[np.int64]) -> None:
        """Begin window `index`: its row r is to hold text place `first_place + places[r]`."""
        self.index, self.n_rows, self.n_filled = index, len(places), 0
        self._row_of = np.empty(self.n_rows, np.int64)
        self._row_of[places] = np.arange(self.n_rows)
        self["order"][:] = first_place + places

    @property
    def n_left(self) -> int:
        """Rows that are still to come."""
        return self.n_rows - self.n_filled

    def put(self, rows: Mapping[str, NDArray[Any]], taken: slice) -> None:
        """Scatter the next rows in text order: those in `taken` of each array."""
        n_new = taken.stop - taken.start
        at = self._row_of[self.n_filled : self.n_filled + n_new]
        for name, values in rows.items():
            self._arrays[name][at] = values[taken]
        self.n_filled += n_new

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name][: self.n_rows]
