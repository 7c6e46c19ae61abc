"""Where chunks of an array come from: mapped shard files, or zarr for codecs that are not ours."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deepseemoe.activations.layout import Layout
from deepseemoe.activations.shard_format import shard_path
from deepseemoe.activations.shards import ShardFile


class ChunkSource(Protocol):
    """What `MappedArray` reads from; where `is_mapped`, chunks are views that cost no memory."""

    is_mapped: bool

    def chunk(self, index: int) -> NDArray[Any]:
        """Return the rows of a chunk, checked."""
        ...

    def will_need(self, index: int) -> None:
        """Start to read a chunk, and do not wait."""
        ...


class MappedChunks:
    """Chunks as read-only views of mapped shard files, in the layout of `layout.py`.

    Whatever zarr writes with these codecs is read too: chunks in any order, and without the chunks
    and shards that hold only the fill value. Stores of ours list the shards that were left out in
    the attribute `empty_shards`, so a shard file that went missing is noticed.
    """

    is_mapped = True

    def __init__(self, folder: Path, layout: Layout, label: str):
        """Map nothing yet; `label` names store and array in errors."""
        self._folder, self._layout, self._label = folder, layout, label
        n_shards = -(-layout.shape[0] // (layout.chunk_rows * layout.chunks_per_shard))
        self._shards: list[ShardFile | None] = [None] * n_shards
        self._is_open = [False] * n_shards
        self._filling: NDArray[Any] | None = None

    def chunk(self, index: int) -> NDArray[Any]:
        """Return a view of the chunk; raise ValueError where file, index or checksum is wrong."""
        number, slot = divmod(index, self._layout.chunks_per_shard)
        shard = self._shard(number)
        n_rows = min(
            self._layout.chunk_rows, self._layout.shape[0] - index * self._layout.chunk_rows
        )
        if shard is None or not shard.has_chunk(slot):
            return self._fill()[:n_rows]
        view = shard.chunk(slot)
        if view is None:
            raise ValueError(
                f"{self._label}: chunk {index} ({self._rows(index)}) is damaged, its checksum does "
                f"not match; delete the store and run cache_activations again"
            )
        return view[:n_rows]

    def will_need(self, index: int) -> None:
        """Ask the kernel to read a chunk, and do not wait."""
        number, slot = divmod(index, self._layout.chunks_per_shard)
        shard = self._shard(number)
        if shard is not None:
            shard.will_need(slot)

    def _shard(self, number: int) -> ShardFile | None:
        """Return a shard; None for one that was left out since all of it is the fill value."""
        if not self._is_open[number]:
            self._shards[number] = self._open(number)
            self._is_open[number] = True
        return self._shards[number]

    def _open(self, number: int) -> ShardFile | None:
        path = shard_path(self._folder, number, len(self._layout.shape))
        per_shard = self._layout.chunks_per_shard
        rows = self._rows(number * per_shard, per_shard)
        advice = "delete the store and run cache_activations again"
        try:
            return ShardFile(path, self._layout)
        except FileNotFoundError:
            left_out = self._layout.attributes.get("empty_shards")
            if left_out is None or number in left_out:
                return None
            raise ValueError(
                f"{self._label}: {rows} are missing, no file {path}; {advice}"
            ) from None
        except ValueError as error:
            raise ValueError(f"{self._label}: {rows} cannot be read: {error}; {advice}") from None

    def _rows(self, first_chunk: int, n_chunks: int = 1) -> str:
        """Return the rows of some chunks as words, both ends in."""
        start = first_chunk * self._layout.chunk_rows
        stop = min(start + n_chunks * self._layout.chunk_rows, self._layout.shape[0])
        return f"rows {start} to {stop - 1}"

    def _fill(self) -> NDArray[Any]:
        """Return a chunk of the fill value, shared by all chunks that were left out."""
        if self._filling is None:
            shape = (self._layout.chunk_rows, *self._layout.shape[1:])
            self._filling = np.full(shape, self._layout.fill_value, self._layout.dtype)
            self._filling.flags.writeable = False
        return self._filling


class DecodedChunks:
    """Chunks decoded by zarr-python, for arrays that are compressed or laid out in another way."""

    is_mapped = False

    def __init__(self, folder: Path, label: str):
        """Open the array with zarr, which has all the codecs."""
        import zarr  # half a second, spared to readers of our own layout

        self.array = zarr.open_array(folder, mode="r")
        self._label = label

    def chunk(self, index: int) -> NDArray[Any]:
        """Return the rows of the chunk, decoded; raise ValueError where zarr cannot."""
        start = index * self.array.chunks[0]
        stop = min(start + self.array.chunks[0], self.array.shape[0])
        try:
            return np.ascontiguousarray(self.array[start:stop])
        except Exception as error:  # codecs raise whatever their libraries raise
            where = f"{self._label}: rows {start} to {stop - 1}"
            raise ValueError(f"{where} cannot be decoded: {error}") from error

    def will_need(self, index: int) -> None:
        """Do nothing: zarr has no read-ahead."""
