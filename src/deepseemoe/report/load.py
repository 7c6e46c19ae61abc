"""Figure of expert load: which experts are chosen more, and less, than uniform routing would."""

import numpy as np
from matplotlib.figure import Figure

from deepseemoe.names import ExpertId, layer_name
from deepseemoe.report.grids import (
    expert_axis,
    grid_of,
    heat_map,
    layer_axis,
    log_ratio,
    ratio_bar,
    robust_limit,
    write_values,
)
from deepseemoe.report.style import CATEGORIES, WIDTH, headline, styled
from deepseemoe.report.tables import Table

LOAD_COLUMNS = ("layer", "expert", "load", "share")
MAX_WRITTEN = 100
"""Cells up to which each carries its number."""


@styled
def draw_load(table: Table) -> Figure:
    """Draw the load of each expert over a uniform load, and beside it its spread in each layer."""
    layers, load_LE = _grid(table)
    n_experts = load_LE.shape[1]
    width = float(np.clip(5 + 0.17 * n_experts, WIDTH, 12.5))
    figure = Figure(figsize=(width, 2.1 + 0.24 * len(layers)), layout="constrained")
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=[5, 1.1])
    limit = robust_limit(log_ratio(load_LE), at_least=0.5, at_most=2)
    image = heat_map(axes, log_ratio(load_LE), limit)
    if load_LE.size <= MAX_WRITTEN:
        write_values(axes, image, load_LE)
    axes.set_xlabel("expert")
    expert_axis(axes.xaxis, n_experts)
    layer_axis(axes.yaxis, layers)
    beside.barh(range(len(layers)), _spread(load_LE), color=CATEGORIES[0], height=0.62)
    beside.set_xlabel("spread (sd ÷ mean)")
    beside.tick_params(axis="y", length=0)
    ratio_bar(figure, image, axes, "load ÷ uniform", limit)
    headline(figure, load_finding(table))
    return figure


def load_finding(table: Table) -> str:
    """Return what the loads show, as a sentence without its full stop."""
    layers, load_LE = _grid(table)
    row, column = np.unravel_index(np.nanargmax(load_LE), load_LE.shape)
    busiest = ExpertId(int(layers[row]), int(column))
    text = f"{busiest} is the busiest expert, with {load_LE[row, column]:.2f} times a uniform load"
    if len(layers) > 1:
        uneven = int(np.argmax(_spread(load_LE)))
        text += f"; load is least even in {layer_name(int(layers[uneven]))}"
    return text


def _grid(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Return the layers, and the load by their place and by expert."""
    layers, n_experts = np.unique(table["layer"]), int(table["expert"].max()) + 1
    placed = {**table, "place": np.searchsorted(layers, table["layer"])}
    return layers, grid_of(placed, "load", "place", "expert", (len(layers), n_experts))


def _spread(load_LE: np.ndarray) -> np.ndarray:
    return np.nanstd(load_LE, axis=1) / np.nanmean(load_LE, axis=1)
