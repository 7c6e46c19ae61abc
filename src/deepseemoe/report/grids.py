"""Heat maps of layers and experts: their order, their colours, and small multiples of them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy.cluster.hierarchy import leaves_list, linkage

from deepseemoe.names import layer_name
from deepseemoe.report.style import DIVERGING, INK, WIDTH
from deepseemoe.report.tables import Table

MAX_NAMED = 16
"""Experts on an axis that are all named; of more, every fourth or sixteenth is."""
SMALLEST = 2.0**-6
"""Ratios below this are drawn as this, since nothing has no logarithm."""


def leaf_order(rows: np.ndarray) -> np.ndarray:
    """Return an order of rows `(n, m)` that puts like beside like: leaves of an average linkage."""
    if len(rows) < 3:
        return np.arange(len(rows))
    return leaves_list(linkage(rows, "average", optimal_ordering=len(rows) <= 400))


def grid_of(table: Table, value: str, row: str, column: str, shape: tuple[int, int]) -> np.ndarray:
    """Return a column of a long table as a grid of `shape`, NaN where the table has no row."""
    grid = np.full(shape, np.nan)
    grid[table[row].astype(int), table[column].astype(int)] = table[value]
    return grid


def log_ratio(values: np.ndarray) -> np.ndarray:
    """Return log2 of ratios, which diverges evenly around 1; NaN stays NaN."""
    return np.log2(np.maximum(values, SMALLEST))


def heat_map(axes: Axes, grid: np.ndarray, limit: float) -> AxesImage:
    """Draw signed values, white at 0 and saturated from `limit` on; NaN is grey."""
    image = axes.imshow(grid, cmap=DIVERGING, norm=Normalize(-limit, limit), aspect="auto")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def write_values(axes: Axes, image: AxesImage, values: np.ndarray) -> None:
    """Write each value into its cell, in white where the cell is dark."""
    colours = image.cmap(image.norm(image.get_array()))
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            is_dark = colours[row, column, :3] @ (0.299, 0.587, 0.114) < 0.5
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5,
                      color="white" if is_dark else INK)  # fmt: skip


def robust_limit(values: np.ndarray, *, at_least: float, at_most: float) -> float:
    """Return the 99th percentile of the sizes of finite values, inside bounds."""
    finite = np.abs(values[np.isfinite(values)])
    return float(np.clip(np.quantile(finite, 0.99) if len(finite) else 0, at_least, at_most))


def expert_axis(axis: Axis, n_experts: int) -> None:
    """Name experts on an axis: all, or every fourth or sixteenth where there are many."""
    step = 1 if n_experts <= MAX_NAMED else 4 if n_experts <= 64 else 16
    axis.set_major_locator(FixedLocator(range(0, n_experts, step)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda place, _: f"E{place:.0f}"))


def layer_axis(axis: Axis, layers: Sequence[int]) -> None:
    """Name layers on an axis whose places are the indices of `layers`."""
    step = 1 if len(layers) <= 32 else 4
    places = range(0, len(layers), step)
    axis.set_ticks(list(places), [layer_name(int(layers[place])) for place in places])


class Panels:
    """Equal panels for layers, as nearly in a square as `most` panels in a row allow."""

    def __init__(self, n: int, *, width: float, height: float, most: int):
        n_rows = -(-n // most)
        self.n_columns = -(-n // n_rows)
        size = (max(self.n_columns * width + 1.3, WIDTH), n_rows * height + 1.2)
        self.figure = Figure(figsize=size, layout="constrained")
        grid = self.figure.subplots(n_rows, self.n_columns, squeeze=False).ravel()
        self.axes = list(grid[:n])
        for spare in grid[n:]:
            spare.set_axis_off()

    def is_first(self, place: int) -> bool:
        """Return whether a panel opens its row."""
        return place % self.n_columns == 0


def ratio_bar(figure: Figure, image: AxesImage, axes, label: str, limit: float) -> None:
    """Add a colour bar for log2 ratios, with ticks written as ratios: ½, 1, 2."""
    shrink = min(0.95, 2.8 / figure.get_figheight())
    bar = figure.colorbar(image, ax=axes, shrink=shrink, aspect=20, pad=0.015, extend="both",
                          anchor=(0.0, 1.0))  # fmt: skip
    ratios = [1, 2, 4, 8] if limit >= 1 else [1, 1.25, 1.5]
    ratios = [ratio for ratio in ratios if np.log2(ratio) <= limit]
    ticks = [sign * np.log2(ratio) for ratio in ratios for sign in (-1, 1)]
    bar.set_ticks(ticks, labels=[_ratio(2.0**tick) for tick in ticks])
    bar.set_label(label)
    bar.outline.set_visible(False)


def _ratio(value: float) -> str:
    names = {0.125: "⅛", 0.25: "¼", 0.5: "½"}
    return names.get(value, f"{value:.2g}")
