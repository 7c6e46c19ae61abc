"""Activations on the host, in the types of the store, while the GPU goes on with the next batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from deepseemoe.activations.layout import BFLOAT16, ArraySpec
from deepseemoe.activations.tensors import bits_of

Rows = dict[str, NDArray[Any]]
"""Rows of each array, as many in each."""


class HostCopies:
    """Copies of recorded tensors on the host, in the types of the store.

    Tensors of a GPU go to pinned memory, in two sets that take turns, and the copy runs behind the
    kernels that are under way; tensors of the CPU are used as they are.
    """

    def __init__(self, arrays: Sequence[ArraySpec]):
        """Serve the arrays of a store, whatever the size of a batch."""
        self._arrays = arrays
        self._pinned: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})

    def start(self, recorded: Mapping[str, Tensor], tokens: Rows) -> Callable[[], Rows]:
        """Begin to copy; the function returned waits for the end and gives all rows of the batch.

        Its arrays hold until the second `start` after this one.
        """
        self._pinned = self._pinned[::-1]
        host = {
            spec.name: self._copy(spec.name, _as_stored(recorded[spec.name], spec))
            for spec in self._arrays
        }
        on_gpu = any(values.is_cuda for values in recorded.values())
        is_done = torch.cuda.Event() if on_gpu else None
        if is_done:
            is_done.record()

        def rows() -> Rows:
            if is_done:
                is_done.synchronize()
            arrays = {spec.name: host[spec.name].numpy().view(spec.dtype) for spec in self._arrays}
            return {**arrays, **tokens}

        return rows

    def _copy(self, name: str, values: Tensor) -> Tensor:
        if not values.is_cuda:
            return values
        buffers = self._pinned[0]
        if name not in buffers or len(buffers[name]) < len(values):
            buffers[name] = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        return buffers[name][: len(values)].copy_(values, non_blocking=True)


def _as_stored(values: Tensor, spec: ArraySpec) -> Tensor:
    """Return `values` with the bits that the store keeps, in a type that torch and numpy share."""
    if spec.view_dtype == BFLOAT16:
        return bits_of(values)
    stored = torch.int16 if spec.dtype == "uint16" else getattr(torch, spec.dtype)
    return values.to(stored).contiguous()
