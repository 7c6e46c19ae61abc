"""The null of a run: what descriptions score on features that they were not made for.

Descriptions are swapped among features of like frequency, and judged by the same scorer. A score
means little without it: a judge that says yes to everything, features whose random contexts are
easy to tell, or labels so vague that they fit anything, all raise the null as well. Published is
the lift of a score over the mean of the null.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepseemoe.labels.explanation import Labelled, Score
from deepseemoe.labels.scorers.names import WITHOUT_LABEL
from deepseemoe.labels.scoring import Z_95, swapped


class Null(NamedTuple):
    """What swapped descriptions score by one scorer."""

    mean: float
    half: float
    """Half the 95 % interval of the mean, over features"""
    n_features: int


CHANCE = Null(0.5, 0.0, 0)
"""Of a scorer that sees no description, whose null is guessing."""


class Lift(NamedTuple):
    """A score less the null, with its interval; None where either is not there."""

    null: float | None = None
    value: float | None = None
    lo: float | None = None
    hi: float | None = None


def partners(
    n_active: Sequence[int], n_features: int, random: np.random.Generator
) -> list[tuple[int, int]]:
    """Return at most `n_features` pairs of places: a feature, and another that lends a description.

    Spread over all frequencies. Empty where a feature would be its own partner.
    """
    counts = np.asarray(n_active, np.int64)
    if len(counts) < 2 or not n_features:
        return []
    others = swapped(counts, random)
    by_count = np.argsort(counts, kind="stable")
    n_chosen = min(n_features, len(counts))
    chosen = by_count[np.linspace(0, len(counts) - 1, n_chosen).round().astype(int)]
    return [(int(one), int(others[one])) for one in np.unique(chosen) if others[one] != one]


def nulls_of(labelled: Sequence[Labelled]) -> dict[str, Null]:
    """Return the null of each scorer, over the features for which it was measured."""
    values: dict[str, list[float]] = {}
    for one in labelled:
        for null in one.nulls:
            if null is not None and null.balanced_accuracy is not None:
                values.setdefault(null.scorer, []).append(null.balanced_accuracy)
    return {scorer: null_from(np.array(found)) for scorer, found in values.items()}


def null_from(values: npt.NDArray[np.float64]) -> Null:
    """Return the null of some balanced accuracies, one a swapped description."""
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.5
    return Null(float(values.mean()), Z_95 * spread / len(values) ** 0.5, len(values))


def lift(score: Score, nulls: Mapping[str, Null]) -> Lift:
    """Return a score's lift over its null; both intervals are joined by their squares (MOVER)."""
    null = CHANCE if score.scorer in WITHOUT_LABEL else nulls.get(score.scorer)
    if null is None or score.balanced_accuracy is None or score.lo is None or score.hi is None:
        return Lift(null and null.mean)
    value = score.balanced_accuracy - null.mean
    below = np.hypot(score.balanced_accuracy - score.lo, null.half)
    above = np.hypot(score.hi - score.balanced_accuracy, null.half)
    return Lift(null.mean, value, value - float(below), value + float(above))
