"""How a network multiplies by its experts: all at once where it can, else one after the other."""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

ALIGN = 16  # bytes, of which rows have to be a multiple in PyTorch's grouped products


def fit_expert_kernel(network: PreTrainedModel) -> None:
    """Have experts computed one after the other where their widths do not suit grouped products.

    transformers asks for grouped products whatever the widths, and PyTorch then refuses to run. It
    happens in small models only: 10 channels in float32 are 40 bytes. Published models all fit. In
    float64 there are none at all.
    """
    is_grouped = getattr(network.config, "_experts_implementation", None) == "grouped_mm"
    if is_grouped and not all(map(_fits, _down_projections(network))):
        network.set_experts_implementation("eager")


def _down_projections(network: PreTrainedModel) -> Iterator[Tensor]:
    """Yield the weights of all routed experts that bring d_expert back to d_model."""
    for name, weight in network.named_parameters():
        if name.endswith("experts.down_proj"):
            yield weight


def _fits(weight: Tensor) -> bool:
    """Say whether rows of d_model and of d_expert values are aligned; `weight` holds both."""
    _, *widths = weight.shape
    is_aligned = all(width * weight.element_size() % ALIGN == 0 for width in widths)
    return is_aligned and weight.dtype != torch.float64
