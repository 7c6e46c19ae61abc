"""Figure of reconstruction: how much of the model the dictionaries keep, on the test split."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from deepseemoe.report.names import Trained
from deepseemoe.report.style import (
    CATEGORIES,
    INK,
    MUTED,
    WIDTH,
    depth_colours,
    headline,
    legend_right,
    styled,
)
from deepseemoe.report.tables import RunTables, read_values

METRICS = ("fvu", "layers", "l0", "k", "dead_fraction", "loss_recovered", "router_agreement")


def read_metrics(tables: RunTables) -> dict[Trained, dict[str, Any]]:
    """Return the test metrics of every dictionary; `fvu` has a value for each of `layers`."""
    return {
        one: read_values(tables.at("dictionary", one, "metrics.json"), *METRICS)
        for one in tables.trained
    }


def number(value: float | Sequence[float] | None) -> float:
    """Return a metric as one number: the mean of a list, NaN where it was not measured."""
    values = [v for v in np.atleast_1d(np.array(value, dtype=float)) if np.isfinite(v)]
    return float(np.mean(values)) if values else float("nan")


@styled
def draw_reconstruction(metrics: Mapping[Trained, Mapping[str, Any]]) -> Figure:
    """Draw FVU by layer above, and L0/k, loss recovered and router agreement below."""
    names = list(dict.fromkeys(one.dictionary for one in metrics))
    height = 0.8 + 0.26 * len(metrics)
    figure = Figure(figsize=(WIDTH, 3.6 + height), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[2.7, height])
    _by_layer(above, metrics, names)
    _dots(below, metrics, names)
    headline(figure, _finding(metrics), _HOW)
    return figure


_HOW = (
    "Test split. FVU: share of the variance left unexplained. Loss recovered: 1 where the model "
    "predicts as well from reconstructions, 0 where as badly as from zeros. Router agreement: "
    "share of the top-k experts that reconstructions leave unchanged. Dashed: no loss at all."
)


def _by_layer(figure: SubFigure, metrics: Mapping, names: list[str]) -> None:
    windows = list(dict.fromkeys(one.window for one in metrics))
    colours = dict(zip(windows, depth_colours(len(windows)), strict=True))
    panels = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for one, values in metrics.items():
            if one.dictionary == name:
                axes.plot(values["layers"], values["fvu"], "o-", ms=4.5,
                          color=colours[one.window], label=str(one.window))  # fmt: skip
        axes.set(title=name, xlabel="layer")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")
    panels[0].set(ylabel="FVU (share of variance)", ylim=(0, panels[0].get_ylim()[1]))
    legend_right(figure, panels[0], "layers")


def _dots(figure: SubFigure, metrics: Mapping, names: list[str]) -> None:
    panels = figure.subplots(1, 3, sharey=True)
    columns = {
        "L0 ÷ k": [values["l0"] / values["k"] for values in metrics.values()],
        "loss recovered": [number(values["loss_recovered"]) for values in metrics.values()],
        "router agreement": [number(values["router_agreement"]) for values in metrics.values()],
    }
    colours = [CATEGORIES[names.index(one.dictionary) % len(CATEGORIES)] for one in metrics]
    for axes, (label, values) in zip(panels, columns.items(), strict=True):
        _dot_plot(axes, label, np.array(values), colours)
    panels[0].set_yticks(range(len(metrics)), map(str, metrics))
    panels[0].set_ylim(len(metrics) - 0.4, -0.6)


def _dot_plot(axes: Axes, label: str, values: np.ndarray, colours: list) -> None:
    rows = np.arange(len(values))
    axes.axvline(1, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=0)
    axes.hlines(
        rows, np.minimum(values, 1), np.maximum(values, 1), color=colours, lw=1.2, alpha=0.5
    )
    axes.scatter(values, rows, c=colours, s=26, zorder=3)
    low, high = np.nanmin([*values, 1.0]), np.nanmax([*values, 1.0])
    room = max(high - low, 0.02)
    axes.set(title=label, xlim=(low - 0.15 * room, high + 0.42 * room))
    for row, value in zip(rows, values, strict=True):
        text = f"{value:.3f}" if np.isfinite(value) else "not measured"
        at = max(value, 1) if np.isfinite(value) else low
        axes.annotate(text, (at, row), xytext=(7, 0), textcoords="offset points", va="center",
                      fontsize=8, color=INK)  # fmt: skip
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _finding(metrics: Mapping[Trained, Mapping[str, Any]]) -> str:
    fvu = {one: number(values["fvu"]) for one, values in metrics.items()}
    best = min(fvu, key=fvu.get)
    text = f"{best} leaves least unexplained, an FVU of {fvu[best]:.3f}"
    agreement = number(metrics[best]["router_agreement"])
    if np.isfinite(agreement):
        text += f"; its reconstructions keep {agreement:.1%} of the routers’ choices"
    return text
