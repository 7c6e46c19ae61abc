"""Attention masks that keep the segments of packed sequences apart, for every family.

Left to themselves, models leak across segments: with a cache, with a 2-D mask, and gpt-oss always,
whose mask builder never sees the positions. So masks are built here, by transformers' own functions
(in whatever form the attention implementation wants), and handed to the model.

Axes: S sequences, N sequence length.
"""

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from deepseemoe.model.spec import Spec

Mask = Tensor | None
"""A mask (S, 1, N, N), or None where plain causal attention is right and the kernel knows it."""


def segment_masks(
    config: PreTrainedConfig, spec: Spec, like: Tensor, positions_SN: Tensor
) -> Mask | dict[str, Mask]:
    """Return what the model takes as `attention_mask`; `like` has the model's type and device."""
    shape_only = like.new_empty(*positions_SN.shape, 0)  # for embeddings, which are not read
    build = {
        "full_attention": create_causal_mask,
        "sliding_attention": create_sliding_window_causal_mask,
    }
    if spec.window == "by layer type":
        kinds = set(config.layer_types)
        return {kind: build[kind](config, shape_only, None, None, positions_SN) for kind in kinds}
    has_window = spec.window == "every layer" and config.sliding_window is not None
    kind = "sliding_attention" if has_window else "full_attention"
    return build[kind](config, shape_only, None, None, positions_SN)
