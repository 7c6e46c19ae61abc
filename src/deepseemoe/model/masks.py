"""Attention masks that keep the segments of packed sequences apart, for every family.

Left to themselves, models leak across segments: with a cache, with a 2-D mask, and gpt-oss always,
whose mask builder never sees the positions. So masks are built here, by transformers' own functions
(in whatever form the attention implementation wants), and handed to the model.

Axes: S sequences, N sequence length.
"""

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from deepseemoe.model.spec import Spec

Mask = Tensor | None
"""A mask (S, 1, N, N), or None where plain causal attention is right and the kernel knows it."""


def segment_masks(
    config: PreTrainedConfig, spec: Spec, like: Tensor, positions_SN: Tensor
) -> Mask | dict[str, Mask]:
    """Return what the model takes as `attention_mask`; `like` has the model's type and device.

    Raises ValueError where the model itself would mistake the place of a packed document.
    """
    _check_temperature(config, positions_SN)
    if spec.window == "by layer type":
        return {kind: _mask(kind, config, like, positions_SN) for kind in set(config.layer_types)}
    has_window = spec.window == "every layer" and config.sliding_window is not None
    kind = "sliding_attention" if has_window else "full_attention"
    return _mask(kind, config, like, positions_SN)


def _mask(kind: str, config: PreTrainedConfig, like: Tensor, positions_SN: Tensor) -> Mask:
    """Return the mask of one kind of layer, by its name in transformers' `layer_types`."""
    shape_only = like.new_empty(*positions_SN.shape, 0)  # for embeddings, which are not read
    if kind == "sliding_attention":
        return create_sliding_window_causal_mask(config, shape_only, None, None, positions_SN)
    if kind == "chunked_attention" and config.attention_chunk_size is not None:
        # a chunk is a segment of its own; transformers cuts chunks by rows of the sequence instead
        positions_SN = positions_SN % config.attention_chunk_size
    return create_causal_mask(config, shape_only, None, None, positions_SN)


def _check_temperature(config: PreTrainedConfig, positions_SN: Tensor) -> None:
    """Raise ValueError where Llama 4 would scale attention by a token's row, not its position.

    Its layers without rotary positions take the logarithm of how often `floor_scale` (8192 tokens)
    goes into the row, which makes no difference in shorter sequences.
    """
    if not getattr(config, "attn_temperature_tuning", False) or all(config.no_rope_layers):
        return
    rows = torch.arange(positions_SN.shape[1], device=positions_SN.device)
    steps_SN, steps_N = ((place + 1) // config.floor_scale for place in (positions_SN, rows))
    if (steps_SN != steps_N).any():
        raise ValueError(
            f"documents that begin inside a sequence of {len(rows)} tokens would get another "
            f"attention temperature: pack at most floor_scale - 1 = {config.floor_scale - 1} tokens"
        )
