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
    """Yield lines without their line feed; the last one needs none."""
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest


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
