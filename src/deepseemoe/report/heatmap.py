"""Figure of the map itself: which features call which experts, and which they avoid."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from deepseemoe.names import layer_name
from deepseemoe.report.grids import heat_map, leaf_order, robust_limit
from deepseemoe.report.maps import Map, strongest_features
from deepseemoe.report.names import Trained
from deepseemoe.report.style import MUTED, WIDTH, empty, headline, short, styled
from deepseemoe.report.tables import MAX_Q, Table, select

N_LABELS = 36
"""Rows that carry their feature's label; of more rows, the surest of each band carries it."""


@styled
def draw_heat_map(one: Trained, found: Map, *, n_features: int) -> Figure:
    """Draw the log odds ratio of the surest features (rows) and all experts (columns)."""
    layers = np.unique(found.kept["layer"]).astype(int)
    if not len(layers):
        return _nothing_kept(one, found)
    best = strongest_features(found.kept, n_features)
    grid_FE = _grid(found.kept, list(best), layers, found.n_experts)
    order = row_order(np.nan_to_num(grid_FE))
    features = np.array(list(best))[order].tolist()

    figure = Figure(figsize=_size(grid_FE), layout="constrained")
    axes = figure.subplots()
    limit = robust_limit(grid_FE, at_least=0.5, at_most=6)
    image = heat_map(axes, grid_FE[order], limit)
    _name_columns(axes, layers, found.n_experts)
    _name_rows(axes, features, best, found.labels)
    axes.set_ylabel(f"features of {one}")
    bar = figure.colorbar(
        image, ax=axes, location="bottom", shrink=0.4, aspect=34, pad=0.02, anchor=(0, 0.5),
        extend="both",
    )  # fmt: skip
    bar.set_label("log odds ratio, nats (red: called, blue: avoided)", loc="left")
    bar.outline.set_visible(False)
    headline(figure, _finding(one, found), _note(len(features)))
    return figure


def row_order(grid: np.ndarray) -> np.ndarray:
    """Return rows by the first expert that they call, and inside each expert like beside like.

    The first router gives a staircase; features that call none of its experts follow with the next
    router's, and those that only avoid experts come last. An expert counts as called where its log
    odds ratio is above half of the row's highest.
    """
    place = np.empty(len(grid), dtype=int)
    place[leaf_order(grid)] = np.arange(len(grid))
    called = np.where(grid > 0, grid, 0)
    strong = called > 0.5 * called.max(axis=1, keepdims=True)
    first = np.where(strong.any(axis=1), strong.argmax(axis=1), grid.shape[1])
    return np.lexsort((place, first))


def _nothing_kept(one: Trained, found: Map) -> Figure:
    figure = Figure(figsize=(WIDTH, 1.9), layout="constrained")
    reason = "no router reads what this window writes, or no feature fires often enough"
    why = "No pair is clear enough." if found.n_tested else f"Nothing to test: {reason}."
    empty(figure.subplots(), why)
    headline(figure, f"{one}: none of {found.n_tested:,} tested pairs is kept")
    return figure


def _grid(kept: Table, features: Sequence[int], layers: np.ndarray, n_experts: int) -> np.ndarray:
    """Return log odds ratios by feature, and by layer and expert; NaN where a pair is not kept."""
    row_of = {feature: row for row, feature in enumerate(features)}
    mine = select(kept, np.isin(kept["feature"], features))
    rows = [row_of[feature] for feature in mine["feature"].tolist()]
    columns = np.searchsorted(layers, mine["layer"]) * n_experts + mine["expert"].astype(int)
    grid = np.full((len(features), len(layers) * n_experts), np.nan)
    grid[rows, columns] = mine["lor"]
    return grid


def _size(grid: np.ndarray) -> tuple[float, float]:
    """Return width and height in inches: room for labels, then for columns and rows."""
    width = np.clip(6.4 + 0.05 * grid.shape[1], WIDTH, 13)
    height = np.clip(2.9 + 0.165 * min(len(grid), N_LABELS), 3.2, 9)
    return float(width), float(height)


def _name_columns(axes: Axes, layers: np.ndarray, n_experts: int) -> None:
    for place in range(1, len(layers)):
        axes.axvline(place * n_experts - 0.5, color="white", lw=3)
    step = 1 if n_experts * len(layers) <= 32 else max(n_experts // 4, 1)
    places = [p * n_experts + e for p in range(len(layers)) for e in range(0, n_experts, step)]
    axes.set_xticks(places, [f"E{place % n_experts}" for place in places], fontsize=7)
    above = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom"}
    for place, layer in enumerate(layers):
        middle = (place + 0.5) * n_experts - 0.5
        axes.text(middle, 1.008, f"router {layer_name(int(layer))}", fontsize=8.5, **above)
    axes.set_xlabel("expert")


def _name_rows(
    axes: Axes, features: list[int], best: Mapping[int, float], labels: Mapping[int, str]
) -> None:
    """Name the surest feature of each band of rows, with a line from its row to its name."""
    beside = axes.get_yaxis_transform()
    axes.set_yticks([])
    leaders = []
    for band in np.array_split(np.arange(len(features)), min(N_LABELS, len(features))):
        row = max(band.tolist(), key=lambda row: best[features[row]])
        name = short(labels.get(features[row], "not labelled"), 46)
        text = f"F{features[row]:05d}  {name}"
        axes.text(1.03, band.mean(), text, transform=beside, va="center", fontsize=7.5)
        leaders.append([(1.002, row), (1.024, band.mean())])
    lines = LineCollection(leaders, colors=MUTED, lw=0.6, transform=beside, clip_on=False)
    axes.add_collection(lines, autolim=False)


def _finding(one: Trained, found: Map) -> str:
    n_kept, n_features = len(found.kept["q"]), len(np.unique(found.kept["feature"]))
    return (
        f"{one}: {n_kept:,} of {found.n_tested:,} tested pairs of a feature and an expert are kept "
        f"(q\u00a0<\u00a0{MAX_Q:g}), of {n_features:,} features"
    )


def _note(n_shown: int) -> str:
    return (
        f"The {n_shown} features whose intervals stay furthest from 0, by the first expert that "
        "they call, then like beside like. Grey: not kept, or too rare to test. A name belongs to "
        "the surest feature near it."
    )
