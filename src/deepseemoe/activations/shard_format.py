"""Shard files as bytes: what zarr would write, without its codec pipeline in the way.

A shard file holds the chunks of one window, each followed by its crc32c, then the index: offset and
length of every chunk, and the index's own crc32c (zarr v3 `sharding_indexed`). A chunk of zeros is
left out, as zarr does.
"""

from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

CRC_BYTES = 4
ABSENT = 2**64 - 1
"""Offset and length, in a shard's index, of a chunk that holds only the fill value."""


def shard_path(array: Path, shard: int, n_dims: int) -> Path:
    """Return the file of one shard of the array in folder `array`."""
    return array.joinpath("c", str(shard), *["0"] * (n_dims - 1))


def write_shard(
    array: Path, shard: int, rows: NDArray[Any], *, shard_rows: int, chunk_rows: int
) -> bool:
    """Write the rows of one shard, C-contiguous; the last shard may be short.

    Returns whether there is a file: a shard of nothing but zeros has none, as with zarr.
    """
    path = shard_path(array, shard, rows.ndim)
    path.parent.mkdir(parents=True, exist_ok=True)
    extents = np.full((shard_rows // chunk_rows, 2), ABSENT, "<u8")
    place = 0
    with open(path, "wb") as file:
        for slot, start in enumerate(range(0, len(rows), chunk_rows)):
            chunk = _whole_chunk(rows[start : start + chunk_rows], chunk_rows)
            if _is_zero(chunk):
                continue
            file.write(chunk.data)
            file.write(checksum(chunk))
            extents[slot] = place, chunk.nbytes + CRC_BYTES
            place += chunk.nbytes + CRC_BYTES
        if place:
            file.write(encode_index(extents))
    if not place:
        path.unlink()
    return place > 0


def checksum(data: Any) -> bytes:
    """Return the crc32c of bytes or of a contiguous array, as zarr stores it."""
    return google_crc32c.value(data).to_bytes(CRC_BYTES, "little")


def encode_index(extents: NDArray[np.uint64]) -> bytes:
    """Return the index of a shard, from offset and length of each chunk, shape (n_chunks, 2)."""
    index = extents.astype("<u8").tobytes()
    return index + checksum(index)


def decode_index(index: bytes) -> NDArray[np.uint64] | None:
    """Return offset and length of each chunk (n_chunks, 2); None where the index is damaged."""
    if checksum(index[:-CRC_BYTES]) != index[-CRC_BYTES:]:
        return None
    return np.frombuffer(index, "<u8", (len(index) - CRC_BYTES) // 8).reshape(-1, 2)


def _whole_chunk(rows: NDArray[Any], chunk_rows: int) -> NDArray[Any]:
    """Return the rows, the last chunk of an array filled up with zeros."""
    if len(rows) == chunk_rows:
        return rows
    chunk = np.zeros((chunk_rows, *rows.shape[1:]), rows.dtype)
    chunk[: len(rows)] = rows
    return chunk


def _is_zero(chunk: NDArray[Any]) -> bool:
    """Return whether all bits are zero; -0.0 is not."""
    flat = chunk.reshape(-1)
    return not flat[:1].view(np.uint8).any() and not flat.view(np.uint8).any()
