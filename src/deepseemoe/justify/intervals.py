"""Estimates with intervals that hold for other documents and for other seeds.

A quantity is a weighted sum of ratios of sums over documents, averaged over seeds; differences are
quantities too, of both arms' ratios with opposite signs, so everything is paired: the same drawn
documents and the same seeds on both sides.

    variance = variance over draws of documents + variance between seeds / number of seeds

The interval takes Student's t with Welch's and Satterthwaite's degrees of freedom for that sum.
Drawing three seeds again, as documents are drawn, would make intervals too narrow by a third.

Axes: S seeds, P parts (ratios), U units (documents), B draws.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from deepseemoe.runtime.seeds import generator


class Ratios(NamedTuple):
    """Sums of several ratios by seed and unit, and the weight of each ratio."""

    numerators_SPU: NDArray[np.float64]
    denominators_SPU: NDArray[np.float64]
    weights_P: NDArray[np.float64]

    def __neg__(self) -> "Ratios":
        return self._replace(weights_P=-self.weights_P)


class Estimate(NamedTuple):
    """A quantity, its interval, and its standard error; one seed says nothing of other seeds."""

    value: float
    lo: float
    hi: float
    standard_error: float
    n_seeds: int
    n_units: int

    @property
    def is_positive(self) -> bool:
        """Whether the interval lies above 0."""
        return self.lo > 0

    @property
    def is_negative(self) -> bool:
        """Whether the interval lies below 0."""
        return self.hi < 0


def together(pieces: Sequence[Ratios]) -> Ratios:
    """Return the sum of several quantities, as one."""
    return Ratios(*(np.concatenate(parts, axis=-2 if parts[0].ndim > 1 else 0)
                    for parts in zip(*pieces, strict=True)))  # fmt: skip


def minus(left: Ratios, right: Ratios) -> Ratios:
    """Return the difference of two quantities, on the same seeds and units."""
    return together([left, -right])


def quantity_S(ratios: Ratios) -> NDArray[np.float64]:
    """Return a quantity on each seed, over all units."""
    return _values(ratios, np.ones((ratios.numerators_SPU.shape[2], 1)))[:, 0]


def estimate(
    ratios: Ratios, *, n_bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Return a quantity with its interval over documents and seeds."""
    has_unit = (ratios.denominators_SPU != 0).any((0, 1))
    kept = Ratios(
        ratios.numerators_SPU[..., has_unit], ratios.denominators_SPU[..., has_unit],
        ratios.weights_P,
    )  # fmt: skip
    n_seeds, n_units = len(kept.numerators_SPU), int(has_unit.sum())
    if n_units == 0:
        raise ValueError("no document has a token to estimate from; raise test_tokens")
    rng = generator(seed, "justify", "documents")
    counts_UB = rng.multinomial(n_units, np.full(n_units, 1 / n_units), n_bootstrap).T
    drawn_B = _values(kept, counts_UB.astype(np.float64)).mean(0)
    own_S = quantity_S(kept)
    by_document = float(drawn_B.var(ddof=1)) if n_units > 1 else 0.0
    by_seed = float(own_S.var(ddof=1)) / n_seeds if n_seeds > 1 else 0.0
    error = (by_document + by_seed) ** 0.5
    value = float(own_S.mean())
    reach = error * _t_quantile(by_document, by_seed, n_units, n_seeds, confidence)
    return Estimate(value, value - reach, value + reach, error, n_seeds, n_units)


def _values(ratios: Ratios, counts_UB: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quantity on each seed for each draw, (S, B); a ratio without a token counts 0."""
    numerators_SPB = ratios.numerators_SPU @ counts_UB
    denominators_SPB = ratios.denominators_SPU @ counts_UB
    has_any = denominators_SPB != 0
    ratio_SPB = np.divide(
        numerators_SPB, denominators_SPB, out=np.zeros_like(numerators_SPB), where=has_any
    )
    return np.einsum("p,spb->sb", ratios.weights_P, ratio_SPB)


def _t_quantile(
    by_document: float, by_seed: float, n_units: int, n_seeds: int, confidence: float
) -> float:
    """Return Student's t for the sum of two variances; that of 1 degree where nothing varied."""
    squares = by_document**2 / max(n_units - 1, 1) + by_seed**2 / max(n_seeds - 1, 1)
    degrees = (by_document + by_seed) ** 2 / squares if squares > 0 else 1.0
    return float(stats.t.ppf((1 + confidence) / 2, degrees))
