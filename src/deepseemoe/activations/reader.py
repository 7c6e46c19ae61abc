"""Arrays of a store, read as fast as `np.memmap`, each chunk checked when it is first touched.

A chunk's view of the mapped file is made and checked when a row of it is first asked for; from then
on a short read is a look-up in a list, a slice and a copy. Each chunk costs its checksum once a
process (about 25 GB/s), and a view that exists is a view that can be trusted. Arrays with other
codecs (a store that someone compressed) are read through zarr, 10 to 100 times slower.

Training reads whole chunks and copies nothing: rows were permuted inside windows when written, so a
few random chunks make a good batch. Chunk i is the same tokens in every array of a store:

    resid, valid = store["resid_post/L08"], store["is_valid"]
    resid.prefetch(next_chunks)                # the kernel reads ahead while this batch is computed
    for at, chunk in enumerate(chunks):        # any numbers below resid.n_chunks
        bits_TD = resid.chunk(chunk)           # uint16 (n, D), a read-only view of the file
        widen(bits_TD, out=batch_TD[at])       # float32 where it is needed, 16 GB/s; or
        tensors.as_bfloat16(bits_TD)           # a torch tensor on the same memory, to send to a GPU
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepseemoe.activations.bfloat16 import widen
from deepseemoe.activations.layout import BFLOAT16, read_layout, read_metadata
from deepseemoe.activations.sources import ChunkSource, DecodedChunks, MappedChunks


class MappedArray:
    """One array of a store; rows are tokens.

    Values are as stored: bfloat16 comes as the uint16 of its bits, and `floats` widens it. Errors
    about what the files hold are ValueErrors that name store, array and rows.
    """

    def __init__(self, folder: Path, label: str):
        """Read the metadata; files are mapped when they are first needed."""
        metadata = read_metadata(folder)
        layout = read_layout(metadata)
        self.attributes: Mapping[str, Any] = metadata.get("attributes", {})
        self._label = label
        self._source: ChunkSource
        if layout is None:
            self._source = decoded = DecodedChunks(folder, label)
            self.shape: tuple[int, ...] = decoded.array.shape
            self.dtype: np.dtype[Any] = decoded.array.dtype
            self.chunk_tokens: int = decoded.array.chunks[0]
        else:
            self._source = MappedChunks(folder, layout, label)
            self.shape, self.dtype = layout.shape, layout.dtype
            self.chunk_tokens = layout.chunk_rows
        self.n_chunks = -(-self.shape[0] // self.chunk_tokens)
        self._n_rows = self.shape[0]
        self._views: list[NDArray[Any] | None] = [None] * self.n_chunks

    def __len__(self) -> int:
        return self._n_rows

    @property
    def is_mapped(self) -> bool:
        """Whether rows come straight from mapped files; else zarr decodes them."""
        return self._source.is_mapped

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start … stop−1 as an array of the caller's own."""
        chunk, first = divmod(start, self.chunk_tokens)
        last = first + stop - start
        if last <= self.chunk_tokens and 0 <= start < stop <= self._n_rows:
            view = self._views[chunk]
            if view is None:
                view = self.chunk(chunk)
            return view[first:last].copy()
        self._check_bounds(start, stop)
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        for rows, piece in self._pieces(start, stop):
            out[rows] = piece
        return out

    def whole(self) -> NDArray[Any]:
        """Return all rows."""
        return self.read(0, self._n_rows)

    def floats(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows start … stop−1 as float32."""
        self._check_bounds(start, stop)
        out = np.empty((stop - start, *self.shape[1:]), np.float32)
        is_bfloat16 = self.attributes.get("view_dtype") == BFLOAT16
        for rows, piece in self._pieces(start, stop):
            if is_bfloat16:
                widen(piece, out=out[rows])
            else:
                out[rows] = piece
        return out

    def gather(self, rows: ArrayLike) -> NDArray[Any]:
        """Return the given rows, in their order; repeats are allowed."""
        wanted = np.asarray(rows, np.int64)
        out = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        if not len(wanted):
            return out
        self._check_bounds(int(wanted.min()), int(wanted.max()) + 1)
        chunks = wanted // self.chunk_tokens
        by_chunk = np.argsort(chunks, kind="stable")
        starts = np.flatnonzero(np.diff(chunks[by_chunk], prepend=-1))
        for places in np.split(by_chunk, starts[1:]):
            chunk = int(chunks[places[0]])
            out[places] = self.chunk(chunk)[wanted[places] - chunk * self.chunk_tokens]
        return out

    def chunk(self, index: int) -> NDArray[Any]:
        """Return the rows of one chunk, read-only; a view of the mapped file, not a copy."""
        if not 0 <= index < self.n_chunks:
            raise ValueError(f"{self._label}: chunk {index} of {self.n_chunks}")
        view = self._views[index]
        if view is None:
            view = self._source.chunk(index)
            if self._source.is_mapped:
                self._views[index] = view
        return view

    def chunk_views(self, chunks: Iterable[int] | None = None) -> Iterator[NDArray[Any]]:
        """Yield chunks as `chunk` returns them, by default all of them in order."""
        for index in range(self.n_chunks) if chunks is None else chunks:
            yield self.chunk(index)

    def prefetch(self, chunks: Iterable[int]) -> None:
        """Have the kernel read chunks that were not touched yet, and return at once."""
        for index in chunks:
            if self._views[index] is None:
                self._source.will_need(index)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield where each piece of rows start … stop−1 goes, and a view of it."""
        size = self.chunk_tokens
        chunks = range(start // size, -(-stop // size) if start < stop else start // size)
        for index in chunks:
            begin = index * size
            low, high = max(start, begin), min(stop, begin + size)
            yield slice(low - start, high - start), self.chunk(index)[low - begin : high - begin]

    def _check_bounds(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self._n_rows:
            raise ValueError(f"{self._label}: rows {start}:{stop} of {self._n_rows}")
