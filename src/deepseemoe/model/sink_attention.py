"""Attention with sinks (gpt-oss) through PyTorch's fused kernel.

A sink is a logit that a head adds to each softmax and whose weight goes nowhere. transformers has
it only eagerly, with (S, H, N, N) arrays in every layer (2 GB a sequence of 4096), or by kernels
from the Hub. Here the sink is one more key: queries get an extra channel that holds the sink's
logit, only the sink's key is 1 there, and its value is 0.

    softmax([q k^T * scale, sink]) [v; 0]

A layer with a sliding window needs little of its keys: there, queries go in blocks of one window,
each with the keys of its own block and of the one before. On an H100, sequences of 2048 and windows
of 128, the blocks leave an eighth of the work.

Axes: S sequences, H query heads, h key-value heads, N queries, M keys, C channels, B blocks of W.
"""

from typing import Any

import torch
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
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return attention (S, N, H, C) of `query` (S, H, N, C); `s_aux` (H,) holds the sinks' logits.

    `attention_mask` is what `sink_mask` built.
    """
    n_tokens = query.shape[2]
    if sliding_window and n_tokens == key.shape[2] > 2 * sliding_window:
        in_blocks = _Blocks(n_tokens, sliding_window)
        parts = in_blocks.queries(query), in_blocks.keys(key), in_blocks.keys(value)
        out = _attend(*parts, in_blocks.mask(attention_mask), scaling, s_aux)
        out = in_blocks.undo(out, len(query))
    else:
        out = _attend(query, key, value, attention_mask, scaling, s_aux)
    return out.transpose(1, 2).contiguous(), None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, s_aux: Tensor
) -> Tensor:
    """Return attention (S, H, N, C); the mask has the sink's column and those that fill up."""
    n_channels, n_keys = query.shape[-1], key.shape[-2]
    query, key, value = (F.pad(part, (0, _extra(n_channels))) for part in (query, key, value))
    key, value = (F.pad(part, (0, 0, 0, _extra(n_keys))) for part in (key, value))
    query[..., n_channels] = (s_aux / scaling).to(query.dtype)[:, None]
    key[..., n_keys, n_channels] = 1
    is_grouped = query.shape[1] != key.shape[1]
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling, enable_gqa=is_grouped
    )
    return out[..., :n_channels]


class _Blocks:
    """Sequences cut into blocks of one window, which stand where sequences stood."""

    def __init__(self, n_tokens: int, window: int):
        self._n_tokens, self._n_missing = n_tokens, -n_tokens % window
        self._shape = (-1, window)  # B, W

    def queries(self, query: Tensor) -> Tensor:
        """Return (S, H, N, C) as (S * B, H, W, C)."""
        return self._cut(query).transpose(1, 2).flatten(0, 1)

    def keys(self, key: Tensor) -> Tensor:
        """Return (S, h, N, C) as (S * B, h, 2W, C): the block before, then the block itself."""
        own = self._cut(key)
        before = F.pad(own, (0, 0, 0, 0, 1, 0))[:, :, :-1]
        return torch.cat([before, own], dim=3).transpose(1, 2).flatten(0, 1)

    def mask(self, mask: Tensor) -> Tensor:
        """Return (S, 1, N, N + extra) as (S * B, 1, W, 2W + extra)."""
        missing = (0, self._n_missing) * 2
        seen = F.pad(mask[:, 0, :, : self._n_tokens], missing)
        seen = seen.unflatten(2, self._shape).unflatten(1, self._shape)  # (S, B, W, B, W)
        own = seen.diagonal(dim1=1, dim2=3)  # (S, W, W, B)
        before = F.pad(seen.diagonal(offset=-1, dim1=1, dim2=3), (1, 0))
        blocks = torch.cat([before, own], dim=2).permute(0, 3, 1, 2).flatten(0, 1)
        return _with_sink(blocks[:, None])

    def undo(self, out: Tensor, n_sequences: int) -> Tensor:
        """Return (S * B, H, W, C) as (S, H, N, C)."""
        whole = out.unflatten(0, (n_sequences, -1)).transpose(1, 2).flatten(2, 3)
        return whole[:, :, : self._n_tokens]

    def _cut(self, part: Tensor) -> Tensor:
        """Return (S, H, N, C) as (S, H, B, W, C)."""
        return F.pad(part, (0, 0, 0, self._n_missing)).unflatten(2, self._shape)


def sink_mask(*args: Any, **kwargs: Any) -> Tensor:
    """Return a boolean mask (S, 1, N, M + extra): who sees whom, then the sink, which all see."""
    return _with_sink(sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False}))


def _with_sink(mask: Tensor) -> Tensor:
    """Return a mask (..., M) with the sink's column, which all see, and those that fill up."""
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
