"""A safetensors file that grows: rows are appended to each tensor as they come, none is held.

The number of rows is known before (it is counted in a first pass), so the header is written first
and every tensor has its place.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NAMES = {"float16": "F16", "uint16": "U16", "uint32": "U32"}
ALIGNMENT = 8
"""The format aligns its data to 8 bytes."""


class TensorFile:
    """Tensors of known shapes in one file; `append` adds rows to one of them.

    Used as a context manager: its end raises ValueError where a tensor was not filled.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]):
        # Wide types first, so that every tensor begins at a multiple of its own width.
        order = sorted(shapes, key=lambda name: (-shapes[name][0].itemsize, name))
        self._next: dict[str, int] = {}
        self._stop: dict[str, int] = {}
        self._dtypes = {name: shapes[name][0] for name in order}
        header, offset = {}, 0
        for name in order:
            dtype, shape = shapes[name]
            stop = offset + dtype.itemsize * math.prod(shape)
            kind = {"dtype": NAMES[dtype.name], "shape": list(shape)}
            header[name] = {**kind, "data_offsets": [offset, stop]}
            self._next[name], self._stop[name] = offset, stop
            offset = stop
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        self._start = 8 + len(text)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(self._file, len(text).to_bytes(8, "little") + text)
        os.ftruncate(self._file, self._start + offset)

    def append(self, name: str, rows: npt.NDArray[Any]) -> None:
        """Add rows to a tensor; they are cast to its type."""
        data = memoryview(rows.astype(self._dtypes[name]).tobytes())
        if self._next[name] + len(data) > self._stop[name]:
            raise ValueError(f"{name}: more rows than were counted; the shards changed meanwhile")
        while data:
            written = os.pwrite(self._file, data, self._start + self._next[name])
            self._next[name], data = self._next[name] + written, data[written:]

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: Any) -> None:
        os.close(self._file)
        short = [name for name in self._next if self._next[name] != self._stop[name]]
        if short and kind is None:
            raise ValueError(f"{', '.join(short)}: fewer rows than were counted; export again")
