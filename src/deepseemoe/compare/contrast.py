"""The rows of `contrast`: every run against every other, separate against joint experts.

Runs are independent, so variances add. A kind of experts with several runs has a mean; its variance
is that between its runs, or that inside them where it is larger.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from deepseemoe.compare.finished import Finished

Row = dict[str, Any]


class Side(NamedTuple):
    """One side of a contrast: values of its runs, and the standard errors where there are any."""

    name: str
    values: list[float]
    errors: list[float | None]


def contrast_rows(runs: Sequence[Finished], rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the contrasts of the means over layers in rows of `specialisation`.

    Measures over features are means over the maps of a run.
    """
    for measure in dict.fromkeys(row["measure"] for row in rows):
        found = {run.label: _of_run(run.label, measure, rows) for run in runs}
        sides = {label: side for label, side in found.items() if side.values}
        for first, second in combinations(sides.values(), 2):
            yield _row(measure, first, second)
        kinds = [_joined(kind, runs, sides) for kind in ("separate", "joint")]
        if all(kind.values for kind in kinds):
            yield _row(measure, *kinds)


def _of_run(label: str, measure: str, rows: Sequence[Row]) -> Side:
    own = [
        row for row in rows
        if (row["run"], row["measure"], row["layer"]) == (label, measure, None)
        and row["value"] is not None
    ]  # fmt: skip
    if not own:
        return Side(label, [], [])
    errors = [(r["hi"] - r["lo"]) / (2 * 1.96) for r in own if r["lo"] is not None]
    error = float(np.mean(errors)) if len(errors) == len(own) else None
    return Side(label, [float(np.mean([row["value"] for row in own]))], [error])


def _joined(kind: str, runs: Sequence[Finished], sides: dict[str, Side]) -> Side:
    own = [sides[run.label] for run in runs if run.experts == kind and run.label in sides]
    return Side(kind, sum((s.values for s in own), []), sum((s.errors for s in own), []))


def _row(measure: str, first: Side, second: Side) -> Row:
    difference = float(np.mean(first.values) - np.mean(second.values))
    variances = [_variance(first), _variance(second)]
    half = None if None in variances else 1.96 * float(np.sqrt(sum(variances)))
    return {
        "measure": measure, "of": first.name, "minus": second.name, "value": difference,
        "lo": None if half is None else difference - half,
        "hi": None if half is None else difference + half,
        "n_of": len(first.values), "n_minus": len(second.values),
    }  # fmt: skip


def _variance(side: Side) -> float | None:
    """Return the variance of a side's mean; None where nothing tells it."""
    n = len(side.values)
    inside = None if None in side.errors else float(np.mean(np.square(side.errors)))
    between = float(np.var(side.values, ddof=1)) if n > 1 else None
    known = [value for value in (inside, between) if value is not None]
    return max(known) / n if known else None
