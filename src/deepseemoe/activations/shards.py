"""A shard file mapped into memory: where its chunks lie, and whether they are what was written.

A Python mapping holds its file open, and a store has a file for each array and window, so the usual
1,024 open files run out soon: the soft limit is then raised to the hard one, as databases do.
"""

import errno
import mmap
import resource
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseemoe.activations.crc32c import CRC_BYTES, checksum
from deepseemoe.activations.layout import Layout
from deepseemoe.activations.shard_format import ABSENT, decode_index


class ShardFile:
    """The chunks of one shard as views of the mapped file.

    Raises ValueError where the file is shorter than its index says or the index is damaged.
    """

    def __init__(self, path: Path, layout: Layout):
        """Map the file and read its index."""
        self._map = _map_file(path)
        self._shape = (layout.chunk_rows, *layout.shape[1:])
        self._dtype = layout.dtype
        self._count = int(np.prod(self._shape))
        self._n_bytes = self._count * layout.dtype.itemsize
        self._starts = self._read_index(path, layout)

    def _read_index(self, path: Path, layout: Layout) -> list[int | None]:
        """Return where each chunk starts in the file; None for one of nothing but fill value."""
        index_bytes = layout.chunks_per_shard * 16 + CRC_BYTES
        at = 0 if layout.index_first else len(self._map) - index_bytes
        extents = decode_index(self._map[at : at + index_bytes]) if at >= 0 else None
        if extents is None or len(extents) != layout.chunks_per_shard:
            raise ValueError(f"the index of {path} does not match its checksum: cut off or altered")
        starts, lengths = extents[:, 0], extents[:, 1]
        held = starts != ABSENT
        last_start = len(self._map) - self._n_bytes - CRC_BYTES
        fits = (lengths == self._n_bytes + CRC_BYTES) & (starts <= max(last_start, 0))
        if last_start < 0 and held.any() or not fits[held].all():
            raise ValueError(f"the index of {path} points outside of the file: cut off or altered")
        return [int(s) if h else None for s, h in zip(starts, held, strict=True)]

    def has_chunk(self, slot: int) -> bool:
        """Return whether the file holds the chunk; else all of it is the fill value."""
        return self._starts[slot] is not None

    def chunk(self, slot: int) -> NDArray[Any] | None:
        """Return a read-only view of a chunk in the file; None where its checksum is wrong."""
        start = self._starts[slot]
        assert start is not None
        view = np.frombuffer(self._map, self._dtype, self._count, start).reshape(self._shape)
        end = start + self._n_bytes
        return view if checksum(view) == self._map[end : end + CRC_BYTES] else None

    def will_need(self, slot: int) -> None:
        """Ask the kernel to read a chunk into memory, and do not wait."""
        start = self._starts[slot]
        if start is not None and hasattr(mmap, "MADV_WILLNEED"):
            begin = start // mmap.PAGESIZE * mmap.PAGESIZE
            end = start + self._n_bytes + CRC_BYTES
            self._map.madvise(mmap.MADV_WILLNEED, begin, end - begin)


def _map_file(path: Path) -> mmap.mmap:
    """Map a whole file, read-only; raise ValueError where it is empty."""
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno != errno.EMFILE or not _raise_file_limit():
            raise
    return _map_file(path)


def _raise_file_limit() -> bool:
    """Raise the soft limit of open files to the hard one; return whether that changed anything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return True
