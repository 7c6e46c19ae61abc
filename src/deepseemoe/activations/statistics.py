"""What is measured of activations while they are written: rows to train on, scales of channels.

Everything is in float64, in blocks that stay in the processor's cache: squares of bfloat16 do not
overflow there, and means of millions of rows lose nothing. Axis suffixes: T tokens, D d_model.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from deepseemoe.activations.bfloat16 import widen

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_BLOCK_VALUES = 2**18


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

    def add(self, values_TD: NDArray[np.float64]) -> None:
        """Take in some rows; `values_TD` is overwritten."""
        n_new = len(values_TD)
        if not n_new:
            return
        mean_D = values_TD.mean(axis=0)
        values_TD -= mean_D
        square_sum_D = np.einsum("td,td->d", values_TD, values_TD)
        n_rows = self.n_rows + n_new
        shift_D = mean_D - self.mean_D
        self.mean_D += shift_D * (n_new / n_rows)
        self._square_sum_D += square_sum_D + shift_D**2 * (self.n_rows * n_new / n_rows)
        self.n_rows = n_rows

    @property
    def variance_D(self) -> NDArray[np.float64]:
        """Variance of each channel; zeros where there are no rows."""
        return self._square_sum_D / max(self.n_rows, 1)


def row_norms(bits_TD: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Return the Euclidean norm of each bfloat16 row (T,); not finite where a value is not."""
    norms_T = np.empty(len(bits_TD))
    for rows, values_TD in _float_blocks(bits_TD):
        np.einsum("td,td->t", values_TD, values_TD, out=norms_T[rows])
    return np.sqrt(norms_T, out=norms_T)


def add_rows(moments: Moments, bits_TD: NDArray[np.uint16], is_valid_T: NDArray[np.bool_]) -> None:
    """Take the valid bfloat16 rows into `moments`."""
    for rows, values_TD in _float_blocks(bits_TD):
        is_valid = is_valid_T[rows]
        moments.add(values_TD if is_valid.all() else values_TD[is_valid])


def valid_rows(
    positions_T: NDArray[np.integer],
    norms: Mapping[str, NDArray[np.float64]],
    norm_outlier: float,
) -> NDArray[np.bool_]:
    """Return which rows of a window to train on (T,).

    Position 0 is an attention sink in most models: its residual is huge and says nothing of its
    token, so it is left out, as is any row with a norm above `norm_outlier` × the median of the
    window's other positions, in any of `norms`.
    """
    inside_T = positions_T > 0
    is_valid_T = inside_T.copy()
    if inside_T.any():
        for norms_T in norms.values():
            is_valid_T &= norms_T <= norm_outlier * np.median(norms_T[inside_T])
    return is_valid_T


def norm_quantiles(norms_T: NDArray[np.float64]) -> dict[str, float]:
    """Return quantiles of norms by level; empty where there are none."""
    if not len(norms_T):
        return {}
    values = np.quantile(norms_T, QUANTILES)
    return {str(level): float(value) for level, value in zip(QUANTILES, values, strict=True)}


def _float_blocks(
    bits_TD: NDArray[np.uint16],
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield the rows of each block, and a float64 copy of them."""
    n_rows = max(_BLOCK_VALUES // bits_TD.shape[1], 1)
    for start in range(0, len(bits_TD), n_rows):
        rows = slice(start, start + n_rows)
        yield rows, widen(bits_TD[rows]).astype(np.float64)
