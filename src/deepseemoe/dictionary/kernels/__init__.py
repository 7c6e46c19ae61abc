"""Triton kernels for the sparse part of a dictionary's training step, on GPUs.

Each has a twin in plain PyTorch, which defines what it computes, runs everywhere else, and is what
it is tested against. The one place that decides is `for_device`; whoever has a twin asks it first.
None of them knows autograd: our gradients are written out.
"""

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

VARIABLE = "DEEPSEEMOE_KERNELS"
"""Environment variable; "0" turns the kernels off."""

LEAST_CAPABILITY = (8, 0)
"""Of an NVIDIA GPU: older ones have no bfloat16. On AMD's nobody has tried the kernels."""


class Kernels(NamedTuple):
    """The kernels; what they take and return is said where they are written."""

    weighted_sums: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    dot_products: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    above: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
    rows_adam: Callable[..., None]


def for_device(device: torch.device) -> Kernels | None:
    """Return the kernels where they can run and are wanted, else None."""
    if device.type != "cuda" or os.environ.get(VARIABLE, "1") == "0":
        return None
    return loaded() if _can_run(device) else None


@cache
def loaded() -> Kernels:
    """Return the kernels; needs Triton, which torch for GPUs brings."""
    from deepseemoe.dictionary.kernels.above import above
    from deepseemoe.dictionary.kernels.dot_products import dot_products
    from deepseemoe.dictionary.kernels.rows_adam import rows_adam
    from deepseemoe.dictionary.kernels.weighted_sums import weighted_sums

    return Kernels(weighted_sums, dot_products, above, rows_adam)


@cache
def _can_run(device: torch.device) -> bool:
    """Return whether Triton is there, and its kernels right on this GPU."""
    if find_spec("triton") is None or torch.version.hip:
        return False
    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return False
    from deepseemoe.dictionary.kernels.self_test import agrees

    return agrees(device)
