"""Where the value of each hook point passes in a decoder layer of any family.

resid_mid feeds both a norm (or the block) and the residual sum, and only the first can be hooked:
to replace it, the tensor itself has to be written, which both read.
"""

from typing import Literal, NamedTuple

from torch import nn

from deepseemoe.model.spec import Spec
from deepseemoe.names import ROUTING_ARRAYS


class Place(NamedTuple):
    """A module, and on which side of it a value passes."""

    module: nn.Module
    side: Literal["input", "residual", "output", "router"]
    """`residual`: an input that the residual sum reads too. `router`: (logits, weights, ids)."""


def place_of(spec: Spec, layer: nn.Module, hook_point: str) -> Place:
    """Return where the value of a hook point or routing array passes in a decoder layer."""
    block = getattr(layer, spec.block)
    before = getattr(layer, spec.router_norm) if spec.router_norm else block
    after = getattr(layer, spec.block_out_norm) if spec.block_out_norm else block
    if hook_point in ROUTING_ARRAYS:
        return Place(getattr(block, spec.router), "router")
    module, side = {
        "resid_pre": (layer, "input"),
        "attn_out": (getattr(layer, spec.attention_out_norm or spec.attention), "output"),
        "resid_mid": (before, "residual"),
        "moe_in": (block, "input"),
        "expert_out": (getattr(block, spec.experts, None), "output"),
        "shared_out": (getattr(block, spec.shared or "", None), "output"),
        "moe_out": (after, "output"),
        "resid_post": (layer, "output"),
    }[hook_point]
    return Place(module, side)
