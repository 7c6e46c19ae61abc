"""bfloat16 in numpy, which has no such type: the store keeps its bits as uint16.

A bfloat16 is the upper half of a float32, so widening is exact and is a shift.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_EXPONENT = np.uint16(0x7F80)


def widen(bits: NDArray[np.uint16], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return the float32 values of bfloat16 bits, in `out` where it is given (contiguous)."""
    if out is None:
        out = np.empty(bits.shape, np.float32)
    wide = out.view(np.uint32)
    wide[...] = bits  # two passes in place are faster than one casting left_shift
    wide <<= 16
    return out


def narrow(values: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Return the bits of the nearest bfloat16 of finite values, ties to even, as torch rounds."""
    wide = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((wide + np.uint32(0x7FFF) + ((wide >> 16) & np.uint32(1))) >> 16).astype(np.uint16)


def is_finite(bits: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Return where bfloat16 bits are neither infinite nor NaN."""
    return (bits & _EXPONENT) != _EXPONENT
