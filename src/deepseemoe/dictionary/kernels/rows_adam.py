"""Gradient rows and Adam's step on them in one pass; the gradient never goes to memory.

    g = (sum of values[i] * table[tokens[i]] + extra) / divisor     i over the entries of a row
    m = b1 m + (1 - b1) g       v = b2 v + (1 - b2) g²              n steps, this included
    w = w - rate / (1 - b1^n) * m / (sqrt(v) / sqrt(1 - b2^n) + epsilon)

Kingma & Ba 2015 (arXiv 1412.6980), with epsilon where `torch.optim.Adam` has it. The twin is
`Gradient.blocks` and `adam.Adam.update`. Torch's kernel for GPUs reckons 1 - b2^n in float32, which
is off by 1e-5 of it in the first steps; this one is given the numbers in float64.

Bytes: 24 for each weight in float32 (w, m and v, read and written), in place of 32 and one more
launch for each block of rows; and the rows that entries name, from L2 (`tiles`): all tokens of a
batch at gpt-oss width fit at 512 columns.

Axes: F features (rows of the weight), N tokens, W columns, A rows with an extra gradient.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepseemoe.dictionary.kernels.tiles import OPTIONS, on_device_of, rows_of, tile_of
from deepseemoe.dictionary.kernels.weighted_sums import sum_of_rows


def rows_adam(
    weight_FW: Tensor,
    first_FW: Tensor,
    second_FW: Tensor,
    *,
    table_NW: Tensor,
    tokens: Tensor,
    offsets: Tensor,
    values: Tensor,
    constants: Tensor,
    extra_AW: Tensor | None = None,
    extra_rows: Tensor | None = None,
) -> None:
    """Change a weight and its two moments, all of one float type, in place.

    `offsets` (F + 1,) are places in `tokens` and `values`, sorted by feature. `constants` (6,) are
    divisor, b1, b2, epsilon, rate / (1 - b1^n) and sqrt(1 - b2^n), in the weight's type on its
    device. Row `extra_rows[a]` (distinct) of the gradient has `extra_AW[a]` added.
    """
    table_NW = rows_of(table_NW)
    n_features, n_columns = weight_FW.shape
    if weight_FW.numel() == 0:
        return
    extra_place_F, has_extra = offsets, extra_rows is not None and len(extra_rows) > 0
    if has_extra:
        extra_place_F = torch.full_like(offsets[:-1], -1)
        extra_place_F[extra_rows] = torch.arange(len(extra_rows), device=offsets.device)
    tile, n_entries = tile_of(table_NW)
    with on_device_of(weight_FW):
        _rows_adam[(n_features, triton.cdiv(n_columns, tile))](
            table_NW,
            table_NW.stride(0),
            tokens.contiguous(),
            offsets.contiguous(),
            values.contiguous(),
            extra_AW.contiguous() if has_extra else weight_FW,
            extra_place_F,
            weight_FW,
            first_FW,
            second_FW,
            constants,
            n_columns,
            HAS_EXTRA=has_extra,
            TILE=tile,
            ENTRIES=n_entries,
            **OPTIONS,
        )


@triton.jit
def _rows_adam(
    table,
    stride,
    tokens,
    offsets,
    values,
    extra,
    extra_places,
    weights,
    firsts,
    seconds,
    constants,
    n_columns,
    HAS_EXTRA: tl.constexpr,
    TILE: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    feature = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    is_column = column < n_columns
    gradient = sum_of_rows(
        table,
        stride,
        tokens,
        values,
        tl.load(offsets + feature),
        tl.load(offsets + feature + 1),
        column,
        is_column,
        weights.dtype.element_ty,
        TILE,
        ENTRIES,
    )
    if HAS_EXTRA:
        place = tl.load(extra_places + feature)
        if place >= 0:
            gradient += tl.load(extra + place * n_columns + column, mask=is_column, other=0.0)
    gradient = gradient / tl.load(constants)
    b1, b2 = tl.load(constants + 1), tl.load(constants + 2)
    epsilon, rate, correction = (
        tl.load(constants + 3),
        tl.load(constants + 4),
        tl.load(constants + 5),
    )
    cells = feature * n_columns + column
    first = b1 * tl.load(firsts + cells, mask=is_column, other=0.0) + (1 - b1) * gradient
    second = tl.load(seconds + cells, mask=is_column, other=0.0)
    second = b2 * second + (1 - b2) * gradient * gradient
    weight = tl.load(weights + cells, mask=is_column, other=0.0)
    weight -= rate * first / (tl.sqrt(second) / correction + epsilon)
    tl.store(firsts + cells, first, mask=is_column)
    tl.store(seconds + cells, second, mask=is_column)
    tl.store(weights + cells, weight, mask=is_column)
