"""Adam on rows of weights, as their gradients come (Kingma & Ba 2015, arXiv 1412.6980).

The update itself is torch's fused kernel; what is ours is only that it can be asked for a block of
rows at a time, so that the gradient of a whole matrix is never in memory. Gradients may be divided
by a number on the way (`divisor`), which is what clipping does, without a pass over them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.adam import adam

BETAS = (0.9, 0.999)


class Rows(NamedTuple):
    """The gradient of rows `first` to `stop` - 1 of the tensor that stands at place `tensor`."""

    tensor: int
    first: int
    stop: int
    gradient: Tensor


class Adam:
    """Moments of some tensors; like them float32, or whatever they are.

    Raises ValueError where a tensor is not contiguous.
    """

    def __init__(self, tensors: Sequence[Tensor], *, epsilon: float = 1e-8) -> None:
        self._tensors = list(tensors)
        if not all(tensor.is_contiguous() for tensor in self._tensors):
            raise ValueError("weights to train are contiguous; torch's kernel takes others for it")
        self.first = [torch.zeros_like(tensor) for tensor in self._tensors]
        self.second = [torch.zeros_like(tensor) for tensor in self._tensors]
        self._epsilon = epsilon
        device = self._tensors[0].device
        self._steps = [torch.zeros((), device=device) for _ in self._tensors]
        self._divisor = torch.ones((), device=device)

    def begin(self, step: int, *, divisor: float = 1.0) -> None:
        """Start step number `step`, counted from 0, with gradients to be divided by `divisor`."""
        self._number = step
        self._is_divided = divisor != 1.0
        self._divisor.fill_(divisor)

    def update(self, rows: Sequence[Rows], *, rate: float) -> list[Tensor]:
        """Take this step in some rows of some tensors, and return these rows."""
        weights, first, second = (
            [tensors[index][start:stop] for index, start, stop, _ in rows]
            for tensors in (self._tensors, self.first, self.second)
        )
        steps = self._steps[: len(rows)]
        for step in steps:  # the kernel counts it up, and other rows are to follow
            step.fill_(self._number)
        adam(
            weights,
            [gradient for *_, gradient in rows],
            first,
            second,
            [],
            steps,
            fused=True,
            grad_scale=self._divisor if self._is_divided else None,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=rate,
            weight_decay=0.0,
            eps=self._epsilon,
            maximize=False,
        )
        return weights
