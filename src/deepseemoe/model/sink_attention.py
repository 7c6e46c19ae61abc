"""Attention with sinks (gpt-oss) through PyTorch's fused kernel.

A sink is a logit that a head adds to each softmax and whose weight goes nowhere. transformers has
it only eagerly, with (S, H, N, N) arrays in every layer (2 GB a sequence of 4096), or by kernels
from the Hub. Here the sink is one more key: queries get an extra channel that holds the sink's
logit, only the sink's key is 1 there, and its value is 0.

    softmax([q k^T * scale, sink]) [v; 0]

Axes: S sequences, H query heads, h key-value heads, N queries, M keys, C channels.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "sink_attn"  # transformers takes any name with "sdpa" in it for its own
ALIGN = 8  # kernels want channels and keys in multiples of this


def sink_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float,
    s_aux: Tensor,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return attention (S, N, H, C) of `query` (S, H, N, C); `s_aux` (H,) holds the sinks' logits.

    `attention_mask` is what `sink_mask` built.
    """
    n_channels, n_keys = query.shape[-1], key.shape[-2]
    query, key, value = (F.pad(part, (0, _extra(n_channels))) for part in (query, key, value))
    key, value = (F.pad(part, (0, 0, 0, _extra(n_keys))) for part in (key, value))
    query[..., n_channels] = (s_aux / scaling).to(query.dtype)[:, None]
    key[..., n_keys, n_channels] = 1
    is_grouped = query.shape[1] != key.shape[1]
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling, enable_gqa=is_grouped
    )
    return out[..., :n_channels].transpose(1, 2).contiguous(), None


def sink_mask(*args: Any, **kwargs: Any) -> Tensor:
    """Return a boolean mask (S, 1, N, M + extra): who sees whom, then the sink, which all see."""
    mask = sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})
    n_keys = mask.shape[-1]
    mask = F.pad(mask, (0, _extra(n_keys)))
    mask[..., n_keys] = True
    return mask


def _extra(size: int) -> int:
    """Return how many channels or keys to add: one for the sink, then up to a multiple of ALIGN."""
    return ALIGN - size % ALIGN


def register_sink_attention() -> None:
    """Teach transformers the attention `sink_attn`; calling it again changes nothing."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, sink_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sink_mask)
