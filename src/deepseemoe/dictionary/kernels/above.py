"""What of a block of the encoder product exceeds a floor of each feature, as coordinates.

    all (t, b, product[t, b]) with product[t, b] > floor[b], by token, then by feature

The twin is the boolean mask and `torch.nonzero` of `scan`. The usual compaction in two passes
(Blelloch 1990, "Prefix sums and their applications"): count each token's, sum the counts up, and
write each token's where its turn is. No atomics, so the order is always the same.

Bytes: the block twice (8,192 x 8,192 bfloat16: 2 x 134 MB; L2 would hold one of 1,024 features),
and about 20 for each entry. The twin's mask, flat indices, divisions and gather are not made.

Axes: T tokens, B features of the block; nnz entries.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepseemoe.dictionary.kernels.tiles import OPTIONS, on_device_of, rows_of

WIDTH = 1024
"""Features that a program looks at together."""


def above(product_TB: Tensor, floor_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens and features (nnz,) int64, features from 0, and values in the product's type.

    `floor_B` is of the product's type too. NaN is above nothing.
    """
    product_TB, floor_B = rows_of(product_TB), floor_B.contiguous()
    n_tokens, n_features = product_TB.shape
    device = product_TB.device
    offsets = torch.zeros(n_tokens + 1, dtype=torch.int64, device=device)
    if product_TB.numel():
        with on_device_of(product_TB):
            _count[(n_tokens,)](
                product_TB,
                product_TB.stride(0),
                floor_B,
                offsets,
                n_features,
                WIDTH=WIDTH,
                **OPTIONS,
            )
    offsets = offsets.cumsum(0)
    n_entries = int(offsets[-1])
    tokens, features = torch.empty(2, n_entries, dtype=torch.int64, device=device)
    values = torch.empty(n_entries, dtype=product_TB.dtype, device=device)
    if n_entries:
        with on_device_of(product_TB):
            _write[(n_tokens,)](
                product_TB,
                product_TB.stride(0),
                floor_B,
                offsets,
                tokens,
                features,
                values,
                n_features,
                WIDTH=WIDTH,
                **OPTIONS,
            )
    return tokens, features, values


@triton.jit
def _count(product, stride, floor, offsets, n_features, WIDTH: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    counts = tl.zeros((WIDTH,), dtype=tl.int32)
    for first in range(0, n_features, WIDTH):
        feature = first + tl.arange(0, WIDTH)
        is_feature = feature < n_features
        value = tl.load(product + token * stride + feature, mask=is_feature, other=0.0)
        least = tl.load(floor + feature, mask=is_feature, other=float("inf"))
        counts += _exceeds(value, least).to(tl.int32)
    tl.store(offsets + token + 1, tl.sum(counts, axis=0).to(tl.int64))


@triton.jit
def _write(
    product, stride, floor, offsets, tokens, features, values, n_features, WIDTH: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    next_place = tl.load(offsets + token)
    for first in range(0, n_features, WIDTH):
        feature = first + tl.arange(0, WIDTH)
        is_feature = feature < n_features
        value = tl.load(product + token * stride + feature, mask=is_feature, other=0.0)
        least = tl.load(floor + feature, mask=is_feature, other=float("inf"))
        is_above = _exceeds(value, least)
        rank = tl.cumsum(is_above.to(tl.int32), axis=0)
        place = next_place + rank - 1
        tl.store(tokens + place, token, mask=is_above)
        tl.store(features + place, feature.to(tl.int64), mask=is_above)
        tl.store(values + place, value, mask=is_above)
        next_place += tl.sum(is_above.to(tl.int64), axis=0)


@triton.jit
def _exceeds(value, least):
    """Return value > least; bfloat16 as float32, which not all GPUs compare as it is."""
    if value.dtype == tl.float64:
        return value > least
    return value.to(tl.float32) > least.to(tl.float32)
