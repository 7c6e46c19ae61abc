"""Packed token sequences as tensors."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class TokenBatch(NamedTuple):
    """Sequences of equal length, int64 (S, N); a segment opens where `positions` is 0."""

    token_ids: Tensor
    positions: Tensor

    @classmethod
    def from_arrays(cls, token_ids_SN: NDArray, positions_SN: NDArray) -> "TokenBatch":
        """Return numpy arrays of any integer type, such as those of a corpus shard, as tensors."""
        arrays = (token_ids_SN, positions_SN)
        return cls(*(torch.from_numpy(array.astype(np.int64)) for array in arrays))

    def to(self, device: torch.device | str) -> "TokenBatch":
        """Return the batch on `device`."""
        return TokenBatch(self.token_ids.to(device), self.positions.to(device))
