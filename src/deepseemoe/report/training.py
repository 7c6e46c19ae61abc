"""Figures of training: the model's where the run trains one, and every dictionary's."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from deepseemoe.report.names import Trained
from deepseemoe.report.style import (
    CATEGORIES,
    FAINT,
    MUTED,
    WIDTH,
    depth_colours,
    headline,
    legend_right,
    log_axis,
    styled,
    token_axis,
    width_of,
)
from deepseemoe.report.tables import RunTables, Table, read_columns, read_values

MODEL_COLUMNS = ("n_tokens", "loss", "balance_loss")
DICTIONARY_COLUMNS = ("n_tokens", "fvu", "l0", "dead_fraction")


def read_dictionaries(tables: RunTables) -> dict[Trained, Table]:
    """Return the training curves of dictionaries, with `k`, the L0 that was asked for.

    Imported ones have none.
    """
    curves = {}
    for one in (one for one in tables.trained if one.dictionary not in tables.imported):
        table = read_columns(tables.at("dictionary", one, "training.parquet"), *DICTIONARY_COLUMNS)
        k = read_values(tables.at("dictionary", one, "metrics.json"), "k")["k"]
        curves[one] = {**table, "k": np.full(len(table["fvu"]), k)}
    return curves


@styled
def draw_model(table: Table) -> Figure:
    """Draw loss and balance loss of the model over the tokens it was trained on."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    loss, balance = figure.subplots(1, 2)
    _curve(loss, table, "loss", "cross-entropy (nats a token)")
    _curve(balance, table, "balance_loss", "load-balancing loss (1: uniform)")
    balance.axhline(1, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=0)
    first, last = table["loss"][0], smooth(table["loss"])[-1]
    headline(
        figure,
        f"The model’s loss falls from {first:.2f} to {last:.2f} nats a token "
        f"over {EngFormatter(places=1)(table['n_tokens'][-1])} tokens",
        "Pale: each logged step. Dark: running mean over a twentieth of the steps.",
    )
    return figure


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the running mean over a twentieth of the values, shorter windows at the ends."""
    half = max(len(values) // 40, 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    start, stop = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[stop] - sums[start]) / (stop - start)


def _curve(axes: Axes, table: Table, name: str, label: str) -> None:
    axes.plot(table["n_tokens"], table[name], color=CATEGORIES[4], lw=0.8, alpha=0.55)
    axes.plot(table["n_tokens"], smooth(table[name]), color=CATEGORIES[0])
    axes.set(xlabel="tokens trained on", ylabel=label)
    axes.grid(axis="y")
    token_axis(axes.xaxis)


@styled
def draw_dictionaries(curves: Mapping[Trained, Table]) -> Figure:
    """Draw FVU, L0 and dead features of every dictionary over its training tokens."""
    names = list(dict.fromkeys(one.dictionary for one in curves))
    windows = list(dict.fromkeys(one.window for one in curves))
    colours = dict(zip(windows, depth_colours(len(windows)), strict=True))
    figure = Figure(figsize=(width_of(len(names)), 6), layout="constrained")
    grid = figure.subplots(3, len(names), sharex="col", sharey="row", squeeze=False,
                           height_ratios=[1.6, 1, 1])  # fmt: skip
    for column, name in zip(grid.T, names, strict=True):
        mine = {one: table for one, table in curves.items() if one.dictionary == name}
        for one, table in mine.items():
            _panels(column, table, colours[one.window], str(one.window))
        column[0].set_title(name)
        _reference(column[1], next(iter(mine.values()))["k"][0])
        column[2].set_xlabel("tokens trained on")
        token_axis(column[2].xaxis)
    _label_rows(grid)
    legend_right(figure, grid[0, 0], "layers")
    headline(figure, _finding(curves), "Batch values while training; dashed: k, the L0 asked for.")
    return figure


def _panels(column: np.ndarray, table: Table, colour, label: str) -> None:
    for axes, values in zip(
        column, (table["fvu"], table["l0"], 100 * table["dead_fraction"]), strict=True
    ):
        axes.plot(table["n_tokens"], values, color=colour, label=label, lw=1.3)


def _reference(axes: Axes, k: float) -> None:
    axes.axhline(k, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=0)


def _label_rows(grid: np.ndarray) -> None:
    labels = ("FVU (log scale)", "L0 (features a token)", "dead features (%)")
    for row, label in zip(grid, labels, strict=True):
        row[0].set_ylabel(label)
        for axes in row:
            axes.grid(axis="y", color=FAINT)
    grid[0, 0].set_yscale("log")
    log_axis(grid[0, 0].yaxis)
    for row in grid[1:]:
        row[0].set_ylim(bottom=0)


def _finding(curves: Mapping[Trained, Table]) -> str:
    ends = [smooth(table["fvu"])[-1] for table in curves.values()]
    dead = max(table["dead_fraction"][-1] for table in curves.values())
    span = f"{min(ends):.2f}" if len(ends) == 1 else f"{min(ends):.2f} to {max(ends):.2f}"
    return f"Training ends at an FVU of {span}, with at most {dead:.1%} of the features dead"
