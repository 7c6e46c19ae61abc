"""Figure of how well labels tell where their features fire."""

from collections.abc import Mapping
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
from deepseemoe.report.tables import RunTables, Table, read_columns
from deepseemoe.runtime.tables import read_manifest

SCORE_COLUMNS = ("feature", "scorer", "balanced_accuracy", "lo", "hi", "n_failed")
SCORES = np.linspace(0, 1, 201)
LINES = ("-", (0, (5, 2)), (0, (1, 1.5)))


class Scores(NamedTuple):
    """Scores of one dictionary's labels; `null` is the mean score of labels given to others."""

    table: Table
    null: float | None


def read_scores(tables: RunTables) -> dict[Trained, Scores]:
    """Return the label scores of every dictionary, with the null of their manifest."""
    paths = {one: tables.at("labels", one, "scores.parquet") for one in tables.trained}
    return {
        one: Scores(read_columns(path, *SCORE_COLUMNS), null_score(read_manifest(path)))
        for one, path in paths.items()
    }


def null_score(manifest: Mapping) -> float | None:
    """Return the balanced accuracy of shuffled labels that a manifest states, if it does."""
    value = manifest.get("null_balanced_accuracy")
    return None if value is None else float(value)


@styled
def draw_scores(scores: Mapping[Trained, Scores]) -> Figure:
    """Draw the share of labels below each balanced accuracy, a line for each window and scorer."""
    names = list(dict.fromkeys(one.dictionary for one in scores))
    windows = list(dict.fromkeys(one.window for one in scores))
    colours = dict(zip(windows, depth_colours(len(windows)), strict=True))
    figure = spaced(Figure(figsize=(width_of(len(names)), 3.5), layout="constrained"))
    panels = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for one, (table, _) in scores.items():
            if one.dictionary == name:
                _lines(axes, table, colours[one.window], str(one.window))
        _frame(axes, name, [s.null for one, s in scores.items() if one.dictionary == name])
    panels[0].set_ylabel("share of features at or below")
    legend_right(figure, panels[0], "layers")
    headline(figure, _finding(scores), _NOTE)
    return figure


_NOTE = (
    "A label is scored on documents it was not made from. Lines further to the right are better "
    "labels; 0.5 is guessing. Dashed: labels shuffled among features, where the run measured them."
)


def _lines(axes: Axes, table: Table, colour, label: str) -> None:
    for line, scorer in zip(LINES, dict.fromkeys(table["scorer"]), strict=False):
        values = table["balanced_accuracy"][table["scorer"] == scorer]
        values = np.sort(values[np.isfinite(values)])
        if len(values):
            many = len(set(table["scorer"])) > 1
            cdf = np.searchsorted(values, SCORES, side="right") / len(values)
            axes.plot(
                SCORES, cdf, color=colour, ls=line, label=f"{label}, {scorer}" if many else label
            )


def _frame(axes: Axes, name: str, nulls: list[float | None]) -> None:
    axes.set(title=name, xlabel="balanced accuracy of the label", xlim=(0.4, 1.0), ylim=(0, 1.02))
    axes.grid()
    axes.axvline(0.5, color=MUTED, lw=1)
    for null in {null for null in nulls if null is not None}:
        axes.axvline(null, color=MUTED, lw=1, ls=(0, (4, 3)))
    if not axes.get_lines():
        empty(axes, "no labels")


def _finding(scores: Mapping[Trained, Scores]) -> str:
    values = np.concatenate([scored.table["balanced_accuracy"] for scored in scores.values()])
    values = values[np.isfinite(values)]
    if not len(values):
        return "No label was scored"
    return (
        f"The median label tells firing tokens from others with a balanced accuracy of "
        f"{np.median(values):.2f}; {np.mean(values >= 0.8):.0%} reach 0.8"
    )
