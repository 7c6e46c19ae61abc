"""Between torch's types and those of the store, without a copy or a detour by floats.

numpy has no bfloat16, and torch computes little in unsigned integers: the store keeps the bits of
bfloat16 as uint16, and windows keep unsigned integers as signed ones of the same bits.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepseemoe.activations.layout import BFLOAT16, ArraySpec

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SIGNED = {"uint16": torch.int16, "uint32": torch.int32}


def bits_of(values: Tensor) -> Tensor:
    """Return the bits of `values` as bfloat16, an int16 tensor; a view where they are bfloat16."""
    return values.to(torch.bfloat16).contiguous().view(torch.int16)


def as_bfloat16(bits: NDArray[np.uint16]) -> Tensor:
    """Return a bfloat16 tensor on the memory of `bits`, as `MappedArray.chunk` gives them.

    Chunks of mapped files are read-only: to write to the tensor ends the process.
    """
    return torch.from_dlpack(bits).view(torch.bfloat16)  # from_numpy warns of read-only memory


def tensor_type(spec: ArraySpec) -> torch.dtype:
    """Return the type in which a window holds an array: bfloat16, or one of the same bits."""
    if spec.view_dtype == BFLOAT16:
        return torch.bfloat16
    return _SIGNED.get(spec.dtype) or getattr(torch, spec.dtype)


def as_rows(values: Tensor | NDArray, spec: ArraySpec) -> Tensor:
    """Return rows as a tensor; numpy's are of the array's stored type and keep their bits."""
    if isinstance(values, Tensor):
        return values
    return torch.from_dlpack(values).view(tensor_type(spec))


def as_words(rows: Tensor) -> Tensor:
    """Return rows, contiguous, in the fewest integers (n, words): what moves them fastest."""
    flat = rows.reshape(len(rows), -1)
    return flat.view(_WORDS[math.gcd(flat.shape[1] * flat.element_size(), 8)])
