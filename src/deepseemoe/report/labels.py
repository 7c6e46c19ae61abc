"""Figure of how well labels tell where their features fire."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepseemoe.report.names import Trained
from deepseemoe.report.style import (
    MUTED,
    depth_colours,
    empty,
    headline,
    legend_right,
    spaced,
    styled,
    width_of,
)
from deepseemoe.report.tables import RunTables, Table, read_columns, select
from deepseemoe.runtime.tables import read_manifest

SCORE_COLUMNS = ("feature", "scorer", "balanced_accuracy", "lo", "hi", "lift", "n_failed")
MAIN = ("execution", "detection", "hard", "fuzzing", "embedding", "simulation", "intruder")
"""Scorers in the order in which one of them speaks for a description."""

LIFTS = np.linspace(-0.25, 0.5, 301)
LINES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))


class Scores(NamedTuple):
    """Scores of one dictionary's labels; `null` is the main scorer's mean for swapped labels."""

    table: Table
    null: float | None

    @property
    def main(self) -> Table:
        """Scores by the main scorer."""
        return of_main(self.table)


def read_scores(tables: RunTables) -> dict[Trained, Scores]:
    """Return the label scores of every dictionary, with the null of their manifest."""
    paths = {one: tables.at("labels", one, "scores.parquet") for one in tables.trained}
    return {
        one: Scores(read_columns(path, *SCORE_COLUMNS), null_score(read_manifest(path)))
        for one, path in paths.items()
    }


def null_score(manifest: Mapping) -> float | None:
    """Return the main scorer's balanced accuracy of swapped labels, if a manifest states it."""
    nulls = manifest.get("null", {})
    return next((float(nulls[name]["mean"]) for name in MAIN if name in nulls), None)


def of_main(table: Table) -> Table:
    """Return the rows of the scorer that speaks for the descriptions."""
    present = set(table["scorer"])
    main = next((name for name in MAIN if name in present), None)
    return select(table, table["scorer"] == main)


@styled
def draw_scores(scores: Mapping[Trained, Scores]) -> Figure:
    """Draw the share of labels below each lift, a line for each window and scorer."""
    names = list(dict.fromkeys(one.dictionary for one in scores))
    windows = list(dict.fromkeys(one.window for one in scores))
    colours = dict(zip(windows, depth_colours(len(windows)), strict=True))
    figure = spaced(Figure(figsize=(width_of(len(names)), 3.5), layout="constrained"))
    panels = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for one, (table, _) in scores.items():
            if one.dictionary == name:
                _lines(axes, table, colours[one.window], str(one.window))
        _frame(axes, name)
    panels[0].set_ylabel("share of features at or below")
    legend_right(figure, panels[0], "layers")
    headline(figure, _finding(scores), _NOTE)
    return figure


_NOTE = (
    "Lift: balanced accuracy on documents that the label was not made from, less the mean of "
    "labels swapped among features of like frequency. Lines further to the right are better "
    "labels; 0 is a label that is worth nothing, 0.5 about the most there is."
)


def _lines(axes: Axes, table: Table, colour, label: str) -> None:
    """Draw the share of labels below each lift, a line for each scorer."""
    names = list(dict.fromkeys(table["scorer"]))
    for place, name in enumerate(names):
        values = table["lift"][table["scorer"] == name].astype(float)
        values = np.sort(values[np.isfinite(values)])
        if len(values):
            cdf = np.searchsorted(values, LIFTS, side="right") / len(values)
            told = f"{label}, {name}" if len(names) > 1 else label
            axes.plot(LIFTS, cdf, color=colour, ls=LINES[place % len(LINES)], label=told)


def _frame(axes: Axes, name: str) -> None:
    axes.set(title=name, xlabel="lift over swapped labels", xlim=(-0.1, 0.52), ylim=(0, 1.02))
    axes.grid()
    axes.axvline(0, color=MUTED, lw=1)
    if not axes.get_lines()[1:]:
        empty(axes, "no labels")


def _finding(scores: Mapping[Trained, Scores]) -> str:
    tables = [scored.main for scored in scores.values()]
    values = _finite(tables, "balanced_accuracy")
    if not len(values):
        return "No label was scored"
    told = f"The median label has a balanced accuracy of {np.median(values):.2f}"
    lifts = _finite(tables, "lift")
    if len(lifts):
        told += f", {np.median(lifts):.2f} above swapped labels"
    return f"{told}; {np.mean(values >= 0.8):.0%} reach 0.8"


def _finite(tables: Sequence[Table], name: str) -> np.ndarray:
    values = np.concatenate([table[name].astype(float) for table in tables])
    return values[np.isfinite(values)]
