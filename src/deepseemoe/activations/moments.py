"""Norms of rows, and mean and variance of channels, measured where the rows lie.

Rows are measured in blocks whose size depends on nothing but the width, in one pass: float32 holds
the squares of bfloat16 exactly, and sums over a block are put together in float64. Squares are
summed as they are, and where that would cost digits (a channel far from zero, by more than 7
deviations) the block is measured again with its mean taken off; so is one in which other rows turn
out to count. Variances come out right to about 1e-5, by far less than bfloat16 rounds.

Axis suffixes: T tokens, D d_model, B blocks.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CPU_BLOCK = 2**18
"""Values: 1 MiB of float32, which stay in the processor's cache."""

_GPU_BLOCK = 2**23
"""Values: 32 MiB of float32, which stay in the cache of an H100, in few kernels."""

_SAFE_NORMS = 1e-15, 1e18
"""Norms whose squares float32 holds, with room for sums."""

_SAFE_SHARE = 0.02
"""Share of the variance in a mean square from which on their difference keeps its digits."""


class Moments:
    """Running mean and population variance of each channel.

    Blocks are merged by the pairwise update of Chan, Golub and LeVeque 1979, "Updating formulae and
    a pairwise algorithm for computing sample variances": no large sums are subtracted.
    """

    def __init__(self, d_model: int):
        """Start with no rows."""
        self.n_rows = 0
        self.mean_D = np.zeros(d_model)
        self._square_sum_D = np.zeros(d_model)  # of the distances from the mean

    def add(
        self, n_new: int, mean_D: NDArray[np.float64], square_sum_D: NDArray[np.float64]
    ) -> None:
        """Take in rows by their number, their mean, and the squares of their distances from it."""
        if not n_new:
            return
        n_rows = self.n_rows + n_new
        shift_D = mean_D - self.mean_D
        self.mean_D += shift_D * (n_new / n_rows)
        self._square_sum_D += square_sum_D + shift_D**2 * (self.n_rows * n_new / n_rows)
        self.n_rows = n_rows

    @property
    def variance_D(self) -> NDArray[np.float64]:
        """Variance of each channel; zeros where there are no rows."""
        return self._square_sum_D / max(self.n_rows, 1)


class Blocks(NamedTuple):
    """What `Moments` takes, of each block of some rows; `is_safe` says that no digits were lost."""

    n_rows_B: NDArray[np.int64]
    means_BD: NDArray[np.float64]
    square_sums_BD: NDArray[np.float64]
    is_safe_B: NDArray[np.bool_]


def measure_rows(
    values_TD: Tensor, is_counted_T: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], Blocks]:
    """Return the Euclidean norm of each bfloat16 row (T,), and moments of the rows that count.

    Norms are not finite where a value is not.
    """
    norms, sums = [], []
    for block_TD, omitted in _blocks(values_TD, is_counted_T):
        sum_D = block_TD.index_fill_(0, omitted, 0).sum(0)
        norms.append(block_TD.square_().sum(1).sqrt_())
        sums.append(torch.stack([sum_D, block_TD.sum(0)]))
    norms_T = torch.cat(norms).cpu().numpy().astype(np.float64)
    _mend_norms(norms_T, values_TD)
    n_rows_B = _n_counted(is_counted_T, block_rows(values_TD))
    return norms_T, _from_sums(n_rows_B, torch.stack(sums).cpu().numpy().astype(np.float64))


def mend_blocks(
    blocks: Blocks,
    values_TD: Tensor,
    was_counted_T: NDArray[np.bool_],
    is_counted_T: NDArray[np.bool_],
) -> Blocks:
    """Return blocks in which `is_counted_T` are counted, measured again where that is needed."""
    n_rows = block_rows(values_TD)
    is_stale_B = ~blocks.is_safe_B
    is_stale_B[np.flatnonzero(was_counted_T != is_counted_T) // n_rows] = True
    for block in np.flatnonzero(is_stale_B):
        rows = slice(block * n_rows, (block + 1) * n_rows)
        mean_D, square_sum_D = _centred_moments(values_TD[rows], is_counted_T[rows])
        blocks.means_BD[block], blocks.square_sums_BD[block] = mean_D, square_sum_D
    return blocks._replace(n_rows_B=_n_counted(is_counted_T, n_rows))


def block_rows(values_TD: Tensor) -> int:
    """Return the rows of a block."""
    n_values = _GPU_BLOCK if values_TD.is_cuda else _CPU_BLOCK
    return max(n_values // values_TD.shape[1], 1)


def _blocks(values_TD: Tensor, is_counted_T: NDArray[np.bool_]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a float32 copy of each block, in the same memory, and which rows do not count."""
    n_rows = block_rows(values_TD)
    blocks = values_TD.split(n_rows)
    memory_TD = torch.empty_like(blocks[0], dtype=torch.float32)
    omitted = np.flatnonzero(~is_counted_T)
    n_omitted = np.bincount(omitted // n_rows, minlength=len(blocks)).tolist()
    parts = torch.from_numpy(omitted % n_rows).to(values_TD.device).split(n_omitted)
    for block_TD, part in zip(blocks, parts, strict=True):
        yield memory_TD[: len(block_TD)].copy_(block_TD), part


def _n_counted(is_counted_T: NDArray[np.bool_], n_rows: int) -> NDArray[np.int64]:
    return np.add.reduceat(is_counted_T, range(0, len(is_counted_T), n_rows), dtype=np.int64)


def _from_sums(n_rows_B: NDArray[np.int64], sums_B2D: NDArray[np.float64]) -> Blocks:
    """Return the moments of blocks from their sums of values and of squares."""
    n_rows_B1 = np.maximum(n_rows_B, 1)[:, None]
    means_BD = sums_B2D[:, 0] / n_rows_B1
    with np.errstate(invalid="ignore"):  # inf - inf, of values that are refused or measured again
        square_sums_BD = sums_B2D[:, 1] - n_rows_B1 * means_BD**2
    is_safe_B = (square_sums_BD >= _SAFE_SHARE * sums_B2D[:, 1]).all(1)
    return Blocks(n_rows_B, means_BD, square_sums_BD, is_safe_B)


def _centred_moments(values_TD: Tensor, is_counted_T: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return mean and squares of distances from it, (2, D), of a block's rows that count."""
    ((block_TD, omitted),) = _blocks(values_TD, is_counted_T)
    mean_D = block_TD.index_fill_(0, omitted, 0).sum(0) / max(int(is_counted_T.sum()), 1)
    block_TD -= mean_D
    square_sum_D = block_TD.index_fill_(0, omitted, 0).square_().sum(0)
    return torch.stack([mean_D, square_sum_D]).cpu().numpy().astype(np.float64)


def _mend_norms(norms_T: NDArray[np.float64], values_TD: Tensor) -> None:
    """Measure in float64 the rows that were omitted, or whose squares float32 may not hold."""
    least, most = _SAFE_NORMS
    unsafe = np.flatnonzero(~((norms_T > least) & (norms_T < most)))
    for rows in np.split(unsafe, range(4096, len(unsafe), 4096)):
        exact_TD = values_TD[torch.from_numpy(rows).to(values_TD.device)].double()
        norms_T[rows] = torch.linalg.vector_norm(exact_TD, dim=1).cpu().numpy()
