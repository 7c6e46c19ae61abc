"""Entropy, mutual information and divergence of counts, in bits, with what chance makes of them.

All are of the data as they are: estimates from few tokens are too high, since noise looks like
information. So each is set beside a *null*, its mean over draws in which what is asked about is
shuffled, and `Corrected.value` is what is left. A bootstrap has the same excess once more, so its
draws are moved onto the corrected value before their quantiles are the interval. Analytic
corrections (Miller and Madow 1955) take tokens for independent and are too small on text.

Axes: A and B what is counted together, P draws.
"""

from typing import NamedTuple

import numpy as np

INTERVAL = (0.025, 0.975)


class Corrected(NamedTuple):
    """A measure that cannot be negative, and what of it is more than chance.

    `value` = `raw` - `null`, which may fall below 0 by chance. `p` is the share of shuffled draws,
    the data among them, that reach `raw`. NaN where there is no null or no interval.
    """

    raw: np.ndarray
    null: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def entropy_bits(counts: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the entropy of counts or shares along an axis; NaN where all are 0."""
    total = np.sum(counts, axis=axis, keepdims=True, dtype=np.float64)
    share = np.divide(counts, total, np.full(np.shape(counts), np.nan), where=total > 0)
    logs = np.log2(share, np.zeros_like(share), where=share > 0)
    return -(share * logs).sum(axis=axis)


def mutual_information(joint_AB: np.ndarray) -> np.ndarray:
    """Return I(A; B) of joint counts over the last two axes; never below 0."""
    joint_AB = np.asarray(joint_AB)
    both = entropy_bits(joint_AB.reshape(*joint_AB.shape[:-2], -1))
    bits = entropy_bits(joint_AB.sum(-1)) + entropy_bits(joint_AB.sum(-2)) - both
    return np.maximum(bits, 0.0)


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the Jensen-Shannon divergence (base 2, 0 to 1) of counts along the last axis.

    The divergence, not its square root, which is a distance; both sides weigh the same, however
    many tokens they have.
    """
    p, q = (np.asarray(one) / np.sum(one, -1, keepdims=True) for one in (first, second))
    bits = entropy_bits((p + q) / 2) - (entropy_bits(p) + entropy_bits(q)) / 2
    return np.maximum(bits, 0.0)


def corrected(
    raw: np.ndarray, *, nulls_P: np.ndarray, draws_P: np.ndarray | None = None
) -> Corrected:
    """Return a measure less its mean under the null; draws are along the first axis.

    Without nulls nothing can be said of chance; with fewer than two draws there is no interval.
    """
    raw = np.asarray(raw, np.float64)
    nothing = np.full(raw.shape, np.nan)
    if len(nulls_P) == 0:
        return Corrected(raw, *[nothing] * 5)
    null = np.mean(nulls_P, axis=0)
    p = (1 + (np.asarray(nulls_P) >= raw - 1e-12).sum(0)) / (1 + len(nulls_P))
    low, high = nothing, nothing
    if draws_P is not None and len(draws_P) > 1:
        moved = draws_P - np.mean(draws_P, axis=0) + (raw - null)
        low, high = np.quantile(moved, INTERVAL, axis=0)
    return Corrected(raw, null, raw - null, low, high, p)
