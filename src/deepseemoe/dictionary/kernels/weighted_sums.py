"""Sums of weights times rows of a table, one sum for each group of entries.

    sums[g] = sum of weights[i] * table[rows[i]]        offsets[g] <= i < offsets[g + 1]

What decoding is (groups are tokens, the table is the decoder) and the gradients of encoder and
decoder (groups are features, the table is what the batch read, or its slopes). The twin is
`codes.weighted_sums`; the way is that of TritonDecoder in sparsify and OpenAI's sparse_autoencoder
(Gao et al. 2024, arXiv 2406.04093), with offsets in place of a fixed k and without atomics: one
program owns a sum, takes its entries in order, and the same input gives the same bytes.

Bytes: each entry reads its row, W numbers, from memory or, where a tile's slice of the table stays
in L2, from there (`tiles`); each group writes W numbers. A group that is much longer than others is
one program's work for each tile: a feature that is active in all 8,192 tokens takes 1,024 rounds.

Axes: N rows, W columns, G groups; nnz entries.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepseemoe.dictionary.kernels.tiles import OPTIONS, on_device_of, rows_of, tile_of


def weighted_sums(table_NW: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return the sums, (G, W), in float32, or float64 where table or weights are.

    `rows` (nnz,) int64, `offsets` (G + 1,) int64, `weights` (nnz,); the table is of any float type.
    """
    table_NW = rows_of(table_NW)
    n_groups, n_columns = len(offsets) - 1, table_NW.shape[1]
    dtype = torch.promote_types(torch.promote_types(table_NW.dtype, weights.dtype), torch.float32)
    shape = (n_groups, n_columns)
    if len(rows) == 0 or n_groups == 0 or n_columns == 0:
        return torch.zeros(shape, dtype=dtype, device=table_NW.device)
    sums_GW = torch.empty(shape, dtype=dtype, device=table_NW.device)
    tile, n_entries = tile_of(table_NW)
    with on_device_of(table_NW):
        _weighted_sums[(n_groups, triton.cdiv(n_columns, tile))](
            table_NW,
            table_NW.stride(0),
            rows.contiguous(),
            offsets.contiguous(),
            weights.contiguous(),
            sums_GW,
            n_columns,
            TILE=tile,
            ENTRIES=n_entries,
            **OPTIONS,
        )
    return sums_GW


@triton.jit
def _weighted_sums(
    table,
    stride,
    rows,
    offsets,
    weights,
    sums,
    n_columns,
    TILE: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    group = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    is_column = column < n_columns
    total = sum_of_rows(
        table,
        stride,
        rows,
        weights,
        tl.load(offsets + group),
        tl.load(offsets + group + 1),
        column,
        is_column,
        sums.dtype.element_ty,
        TILE,
        ENTRIES,
    )
    tl.store(sums + group * n_columns + column, total, mask=is_column)


@triton.jit
def sum_of_rows(
    table,
    stride,
    rows,
    weights,
    start,
    stop,
    column,
    is_column,
    SUM: tl.constexpr,
    TILE: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    """Return one tile of the sum over entries `start` to `stop` - 1, (TILE,), of type SUM.

    ENTRIES sums run side by side, so that as many rows are on their way, and are added at the end.
    """
    totals = tl.zeros((ENTRIES, TILE), dtype=SUM)
    for first in range(start, stop, ENTRIES):
        place = first + tl.arange(0, ENTRIES)
        is_entry = place < stop
        row = tl.load(rows + place, mask=is_entry, other=0)
        weight = tl.load(weights + place, mask=is_entry, other=0.0).to(SUM)
        cells = table + row[:, None] * stride + column[None, :]
        found = tl.load(cells, mask=is_entry[:, None] & is_column[None, :], other=0.0).to(SUM)
        totals += weight[:, None] * found
    return tl.sum(totals, axis=0)
