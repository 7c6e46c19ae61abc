"""Dot products of rows of two tables, for the entries of a sparse matrix only.

    products[i] = <left[t], right[columns[i]]>          offsets[t] <= i < offsets[t + 1]

The slope of the loss by each activation (left: slopes of tokens, right: decoders), and
pre-activations computed again in float32 (left: inputs, right: encoders). The twin is
`codes.dot_products`. A program has one token and one tile of columns: it reads its piece of the
left row once and goes through the token's entries; the pieces of a product are then added in order.
So a product does not depend on which other entries there are, which `scan` relies on.

Bytes: each entry reads its right row, W numbers, from memory or from L2 (`tiles`); each tile reads
the left rows once, and writes 4 bytes an entry that are read again: 2 % of the rows at 64 columns.

Axes: T tokens, F features, W columns; nnz entries.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepseemoe.dictionary.kernels.tiles import OPTIONS, on_device_of, rows_of, tile_of

FOLD = 1024
"""Entries whose pieces one program adds."""


def dot_products(left_TW: Tensor, right_FW: Tensor, offsets: Tensor, columns: Tensor) -> Tensor:
    """Return the products, (nnz,), in float32, or float64 where a table is.

    `offsets` (T + 1,) int64, `columns` (nnz,) int64; the tables are of any float type.
    """
    left_TW, right_FW = rows_of(left_TW), rows_of(right_FW)
    n_columns, n_entries = left_TW.shape[1], len(columns)
    dtype = torch.promote_types(torch.promote_types(left_TW.dtype, right_FW.dtype), torch.float32)
    if n_entries == 0 or n_columns == 0:
        return torch.zeros(n_entries, dtype=dtype, device=left_TW.device)
    tile, n_together = tile_of(right_FW)
    n_tiles = triton.cdiv(n_columns, tile)
    pieces = torch.empty(n_tiles, n_entries, dtype=dtype, device=left_TW.device)
    with on_device_of(left_TW):
        _pieces[(len(left_TW), n_tiles)](
            left_TW,
            left_TW.stride(0),
            right_FW,
            right_FW.stride(0),
            offsets.contiguous(),
            columns.contiguous(),
            pieces,
            n_entries,
            n_columns,
            TILE=tile,
            ENTRIES=n_together,
            **OPTIONS,
        )
        if n_tiles == 1:
            return pieces[0]
        products = torch.empty_like(pieces[0])
        _fold[(triton.cdiv(n_entries, FOLD),)](
            pieces, products, n_entries, n_tiles, FOLD=FOLD, **OPTIONS
        )
    return products


@triton.jit
def _pieces(
    left,
    left_stride,
    right,
    right_stride,
    offsets,
    columns,
    pieces,
    n_entries,
    n_columns,
    TILE: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1).to(tl.int64)
    column = tile * TILE + tl.arange(0, TILE)
    is_column = column < n_columns
    SUM: tl.constexpr = pieces.dtype.element_ty
    mine = tl.load(left + token * left_stride + column, mask=is_column, other=0.0).to(SUM)
    stop = tl.load(offsets + token + 1)
    for first in range(tl.load(offsets + token), stop, ENTRIES):
        place = first + tl.arange(0, ENTRIES)
        is_entry = place < stop
        row = tl.load(columns + place, mask=is_entry, other=0)
        cells = right + row[:, None] * right_stride + column[None, :]
        theirs = tl.load(cells, mask=is_entry[:, None] & is_column[None, :], other=0.0).to(SUM)
        piece = tl.sum(theirs * mine[None, :], axis=1)
        tl.store(pieces + tile * n_entries + place, piece, mask=is_entry)


@triton.jit
def _fold(pieces, products, n_entries, n_tiles, FOLD: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * FOLD + tl.arange(0, FOLD)
    is_entry = place < n_entries
    total = tl.zeros((FOLD,), dtype=products.dtype.element_ty)
    piece = pieces + place
    for _ in range(n_tiles):
        total += tl.load(piece, mask=is_entry, other=0.0)
        piece += n_entries
    tl.store(products + place, total, mask=is_entry)
