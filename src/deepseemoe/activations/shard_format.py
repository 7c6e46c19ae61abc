"""Shard files as bytes: what zarr would write, without its codec pipeline in the way.

A shard file holds the chunks of one window, each followed by its crc32c, then the index: offset and
length of every chunk, and the index's own crc32c (zarr v3 `sharding_indexed`). A chunk of zeros is
left out, as zarr does.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseemoe.activations.crc32c import CRC_BYTES, checksum, checksums

ABSENT = 2**64 - 1
"""Offset and length, in a shard's index, of a chunk that holds only the fill value."""

_WORTH_A_BUFFER = 16_384
"""Bytes of a chunk below which a copy costs less than to write it from where it is."""


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
    pieces = [rows.reshape(len(rows), -1).view(np.uint8)]
    return write_pieces(path, pieces, shard_rows=shard_rows, chunk_rows=chunk_rows)


def write_pieces(
    path: Path, pieces: Iterable[NDArray[np.uint8]], *, shard_rows: int, chunk_rows: int
) -> bool:
    """Write a shard from the bytes of its rows, (n, bytes), that come in pieces of whole chunks.

    A piece is done with when the next is asked for. Returns whether there is a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    extents = np.full((shard_rows // chunk_rows, 2), ABSENT, "<u8")
    slot = place = 0
    with open(path, "wb", buffering=0) as file:
        for piece in pieces:
            chunks = _whole_chunks(piece, chunk_rows)
            held = _held(chunks)
            lengths = np.full(len(held), chunks.shape[1] + CRC_BYTES)
            extents[slot + held] = np.stack([place + np.cumsum(lengths) - lengths, lengths], 1)
            _write_all(file.fileno(), _with_checksums(chunks, held))
            slot, place = slot + len(chunks), place + int(lengths.sum())
        if place:
            _write_all(file.fileno(), [encode_index(extents)])
    if not place:
        path.unlink()
    return place > 0


def encode_index(extents: NDArray[np.uint64]) -> bytes:
    """Return the index of a shard, from offset and length of each chunk, shape (n_chunks, 2)."""
    index = extents.astype("<u8").tobytes()
    return index + checksum(index)


def decode_index(index: bytes) -> NDArray[np.uint64] | None:
    """Return offset and length of each chunk (n_chunks, 2); None where the index is damaged."""
    if checksum(index[:-CRC_BYTES]) != index[-CRC_BYTES:]:
        return None
    return np.frombuffer(index, "<u8", (len(index) - CRC_BYTES) // 8).reshape(-1, 2)


def _whole_chunks(rows: NDArray[np.uint8], chunk_rows: int) -> NDArray[np.uint8]:
    """Return the rows by chunk (n, bytes), the last chunk of an array filled up with zeros."""
    n_lacking = -len(rows) % chunk_rows
    if n_lacking:
        rows = np.concatenate([rows, np.zeros((n_lacking, rows.shape[1]), np.uint8)])
    return rows.reshape(len(rows) // chunk_rows, -1)


def _held(chunks: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return which chunks have a bit that is not zero; that of -0.0 is one."""
    is_held = chunks[:, :8].any(axis=1)  # settles nearly all of them
    for chunk in np.flatnonzero(~is_held):
        is_held[chunk] = chunks[chunk].any()
    return np.flatnonzero(is_held)


def _with_checksums(chunks: NDArray[np.uint8], held: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    """Return the held chunks, each followed by its checksum, as buffers to write."""
    if len(held) < len(chunks):
        chunks = chunks[held]
    pair = chunks, checksums(chunks)
    if chunks.shape[1] < _WORTH_A_BUFFER:
        return [np.concatenate(pair, axis=1).reshape(-1)]
    return [part for parts in zip(*pair, strict=True) for part in parts]


def _write_all(file: int, parts: Sequence[Any]) -> None:
    """Write buffers one after the other, in as few calls as the system allows."""
    n_most = os.sysconf("SC_IOV_MAX")
    for start in range(0, len(parts), n_most):
        group = parts[start : start + n_most]
        n_written = os.writev(file, group)
        if n_written < sum(map(len, group)):  # a nearly full disk, or more than 2 GiB at once
            rest = memoryview(b"".join(group))[n_written:]
            while rest:
                rest = rest[os.write(file, rest) :]
