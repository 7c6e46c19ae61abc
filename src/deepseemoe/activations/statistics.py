"""Which rows of a window to train on, and how norms are summed up. Axis suffix: T tokens."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


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


def norm_quantiles(norms_T: NDArray[np.floating]) -> dict[str, float]:
    """Return quantiles of norms by level, linear between norms; empty where there are none."""
    if not len(norms_T):
        return {}
    rising_T = np.sort(norms_T)  # an eighth of the time of np.quantile, which partitions
    shares, below = np.modf(np.array(QUANTILES) * (len(norms_T) - 1))
    low = rising_T[below.astype(int)].astype(np.float64)
    high = rising_T[np.ceil(below + shares).astype(int)]
    values = low + shares * (high - low)
    return {str(level): float(value) for level, value in zip(QUANTILES, values, strict=True)}
