"""Checksums of chunks, without holding up the interpreter.

google_crc32c keeps the interpreter's lock while it computes. At 5 GB/s of activations that is a
quarter of all time, in which the thread that feeds a GPU cannot start a kernel. The C function
behind it is called through ctypes instead, which lets the lock go.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

CRC_BYTES = 4
_WORTH_IT = 16_384
"""Bytes below which letting the lock go costs more than the checksum."""


def checksum(data: Any) -> bytes:
    """Return the crc32c of bytes or of a contiguous array, as zarr stores it."""
    return google_crc32c.value(data).to_bytes(CRC_BYTES, "little")


def checksums(chunks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the crc32c of each row, as zarr stores it: (n, 4) for contiguous rows (n, bytes)."""
    n_bytes = chunks.shape[1]
    unlocked = _unlocked() if n_bytes >= _WORTH_IT else None
    if unlocked:
        start, step = chunks.ctypes.data, chunks.strides[0]
        found = [unlocked(start + row * step, n_bytes) for row in range(len(chunks))]
    else:
        found = [google_crc32c.value(chunk) for chunk in chunks]
    return np.array(found, "<u4").view(np.uint8).reshape(-1, CRC_BYTES)


@cache
def _unlocked() -> Callable[[int, int], int] | None:
    """Return the C function that takes an address and a number of bytes; None where hidden."""
    try:
        from google_crc32c import _crc32c

        value = ctypes.CDLL(_crc32c.__file__).crc32c_value
    except (ImportError, OSError, AttributeError):
        return None
    value.argtypes, value.restype = (ctypes.c_void_p, ctypes.c_size_t), ctypes.c_uint32
    sample = np.arange(256, dtype=np.uint8)
    return value if value(sample.ctypes.data, 256) == google_crc32c.value(sample) else None
