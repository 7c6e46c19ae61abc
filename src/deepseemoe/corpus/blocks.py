"""Bytes of a file in blocks, decompressed; damage is an error, never a shorter file.

zstandard's own stream reader ends silently where a file is cut inside a frame, and after the first
frame unless told otherwise; DCLM shards hold several. So frames are followed here one by one.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import fsspec
import zstandard

from deepseemoe.corpus.listing import SourceFile

_BLOCK = 1 << 20
MOST_BYTES = 1 << 28
"""Bytes that one document may have, as it stands in its file."""
_WIDEST_WINDOW = 1 << 31  # of zstd --long=31


def open_file(file: SourceFile) -> BinaryIO:
    """Open a file of any fsspec protocol for reading."""
    filesystem, path = fsspec.url_to_fs(file.url)
    return filesystem.open(path, "rb")


def read_blocks(file: SourceFile) -> Iterator[bytes]:
    """Yield the decompressed bytes of `file`; raise ValueError where it is damaged or cut."""
    with open_file(file) as raw:
        blocks = _raw_blocks(raw)
        if file.compression == "zst":
            blocks = _zst_blocks(blocks)
        elif file.compression == "gz":
            blocks = _raw_blocks(gzip.GzipFile(fileobj=raw))
        try:
            yield from blocks
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
            raise ValueError(
                f"{file.shown}: damaged or cut {file.compression} data ({error}); "
                "fetch the file again, or leave it out"
            ) from None


def split_lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines without their line feed; the last one needs none.

    Raises ValueError for a line that no document fills: a file of something else, or a few
    kilobytes that were packed to fill the memory.
    """
    rest: list[bytes] = []
    for block in blocks:
        first, *lines = block.split(b"\n")
        rest.append(first)
        if lines:
            *lines, last = [b"".join(rest), *lines]
            yield from lines
            rest = [last]
        _check_size(sum(map(len, rest)), "a line")
    if any(rest):
        yield b"".join(rest)


def whole(blocks: Iterable[bytes]) -> bytes:
    """Return all bytes of a file that is one document; raise ValueError where they are too many."""
    held: list[bytes] = []
    n_bytes = 0
    for block in blocks:
        held.append(block)
        n_bytes += len(block)
        _check_size(n_bytes, "the text, one document,")
    return b"".join(held)


def _check_size(n_bytes: int, what: str) -> None:
    if n_bytes > MOST_BYTES:
        raise ValueError(
            f"{what} has more than {MOST_BYTES >> 20} MiB; expected a document a line (JSON lines, "
            "parquet), or a text of that size; split the file, or leave it out"
        )


def _raw_blocks(raw: BinaryIO) -> Iterator[bytes]:
    while block := raw.read(_BLOCK):
        yield block


def _zst_blocks(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what all frames hold, skippable ones passed over; raise EOFError inside a frame."""
    frame = None
    for block in blocks:
        while block:
            frame = (
                frame or zstandard.ZstdDecompressor(max_window_size=_WIDEST_WINDOW).decompressobj()
            )
            yield frame.decompress(block)
            block, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame:
        raise EOFError("the file ends inside a frame")
