"""Between torch's bfloat16 and the store's uint16 bits, without a copy or a detour by floats."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def bits_of(values: Tensor) -> Tensor:
    """Return the bits of `values` as bfloat16, an int16 tensor; a view where they are bfloat16."""
    return values.to(torch.bfloat16).contiguous().view(torch.int16)


def as_bfloat16(bits: NDArray[np.uint16]) -> Tensor:
    """Return a bfloat16 tensor on the memory of `bits`, as `MappedArray.chunk` gives them.

    Chunks of mapped files are read-only: to write to the tensor ends the process.
    """
    return torch.from_dlpack(bits).view(torch.bfloat16)  # from_numpy warns of read-only memory
