"""How the kernels cut a table of rows into tiles of columns, and where they run.

The rows that entries name are scattered, and each is named many times (gpt-oss width: 8 times by
the gradients, of 8,192 rows; 8 times by decoding, of 65,536). All programs of one tile of columns
run before those of the next, so a tile narrow enough that this slice of all rows stays in the GPU's
L2 cache is read from memory once. The sizes are reckoned for an H100, not measured.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

CACHE_BYTES = 24 * 2**20
"""Of a slice that stays in cache: half of an H100's 50 MB, as the rest streams through."""

NARROWEST, WIDEST = 64, 512
"""Columns of a tile: 128 bytes of bfloat16, the least that memory hands out well, and registers."""

ELEMENTS, MOST_ENTRIES = 4096, 32
"""Numbers that a program holds at once, and entries that it looks at together."""

OPTIONS = {"enable_fp_fusion": True}
"""Of every launch: multiply and add as one. Versions of Triton differ in their default."""


def tile_of(table_NW: Tensor) -> tuple[int, int]:
    """Return the columns of a tile of a table, and how many rows of it a program reads at once."""
    n_rows, n_columns = table_NW.shape
    fitting = CACHE_BYTES // max(1, n_rows * table_NW.element_size())
    tile = min(max(_power_of_2(fitting), NARROWEST), WIDEST)
    tile = min(tile, max(16, _power_of_2(2 * n_columns - 1)))
    return tile, min(MOST_ENTRIES, ELEMENTS // tile)


def rows_of(matrix: Tensor) -> Tensor:
    """Return the matrix with columns next to each other; rows may be apart."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Return what makes launches go to the tensor's GPU; Triton takes the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _power_of_2(n: int) -> int:
    """Return the largest power of 2 that is at most `n`; 1 for less."""
    return 1 << max(0, n.bit_length() - 1)
