"""Figure of how often features fire on the test split."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from deepseemoe.report.names import Trained
from deepseemoe.report.style import depth_colours, headline, legend_right, spaced, styled, width_of
from deepseemoe.report.tables import RunTables, Table, read_columns


def read_densities(tables: RunTables) -> dict[Trained, Table]:
    """Return the density of every feature of every dictionary, share of test tokens."""
    return {
        one: read_columns(tables.at("features", one, "density.parquet"), "density")
        for one in tables.trained
    }


@styled
def draw_density(densities: Mapping[Trained, Table]) -> Figure:
    """Draw histograms of log10 density, a panel for each dictionary and a line for each window."""
    names = list(dict.fromkeys(one.dictionary for one in densities))
    windows = list(dict.fromkeys(one.window for one in densities))
    colours = dict(zip(windows, depth_colours(len(windows)), strict=True))
    figure = spaced(Figure(figsize=(width_of(len(names)), 3.4), layout="constrained"))
    panels = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    edges = _edges(densities)
    for axes, name in zip(panels, names, strict=True):
        mine = {one: table["density"] for one, table in densities.items() if one.dictionary == name}
        for one, density in mine.items():
            _histogram(axes, density, edges, colours[one.window], str(one.window))
        silent = [np.mean(density == 0) for density in mine.values()]
        axes.set_title(f"{name}: {_percent(silent)} of features are silent")
        axes.set_xlabel("test tokens on which a feature fires")
    panels[0].set_ylabel("features")
    panels[0].yaxis.get_major_locator().set_params(integer=True)
    legend_right(figure, panels[0], "layers")
    headline(figure, _finding(densities), "The steps leave out features that never fire.")
    return figure


def _edges(densities: Mapping[Trained, Table]) -> np.ndarray:
    """Return bins of a fifth of a power of ten around all densities above zero."""
    firing = np.concatenate(
        [table["density"][table["density"] > 0] for table in densities.values()]
    )
    if not len(firing):
        return np.array([-1.0, 0.0])
    low, high = np.floor(np.log10(firing.min())), np.ceil(np.log10(firing.max()) + 1e-9)
    return np.linspace(low, high, max(int(round((high - low) * 5)), 1) + 1)


def _histogram(axes: Axes, density, edges, colour, label: str) -> None:
    counts, _ = np.histogram(np.log10(density[density > 0]), edges)
    axes.stairs(counts, edges, color=colour, label=label, lw=1.5)
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MultipleLocator(1))
    axes.xaxis.set_major_formatter(lambda power, _: f"{10 ** (power + 2):g}%")


def _percent(shares: list[float]) -> str:
    low, high = min(shares), max(shares)
    return f"{low:.1%}" if f"{low:.1%}" == f"{high:.1%}" else f"{low:.1%} to {high:.1%}"


def _finding(densities: Mapping[Trained, Table]) -> str:
    every = np.concatenate([table["density"] for table in densities.values()])
    if not every.any():
        return "No feature fires on the test split"
    firing = np.median(every[every > 0])
    return (
        f"Half of the features that fire do so on fewer than {firing:.2%} of the tokens; "
        f"{np.mean(every > 0.1):.1%} of all fire on more than a tenth"
    )
