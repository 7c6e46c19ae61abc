"""Figure of how concentrated the map is: whether features call one expert, a few, or none."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binom

from deepseemoe.report.names import Trained
from deepseemoe.report.style import (
    FAINT,
    depth_colours,
    empty,
    headline,
    legend_right,
    spaced,
    styled,
    width_of,
)
from deepseemoe.report.tables import MAX_Q, RunTables, Table, read_columns

PAIR_COLUMNS = ("layer", "feature", "n_feature", "p_e_given_f", "lor", "q")
MOST = 6
"""Numbers of experts from here on share one place on the axis."""
SHARES = np.linspace(0, 1, 201)


class Concentration(NamedTuple):
    """One entry for each feature and router that were tested together.

    `top_share` is the share of the feature's tokens that choose its commonest expert, `n_called`
    how many experts it calls (q < MAX_Q, log odds ratio above 0); `chance_cdf` is the distribution
    of `top_share` at `SHARES` were tokens routed without regard to features.
    """

    top_share: np.ndarray
    n_called: np.ndarray
    chance_cdf: np.ndarray


def read_concentrations(tables: RunTables) -> dict[Trained, Concentration]:
    """Return the concentration of every map."""
    load = tables.read("routing/load.parquet", "layer", "share")
    paths = {one: tables.at("experts", one, "reads.parquet") for one in tables.trained}
    return {
        one: concentrate(read_columns(path, *PAIR_COLUMNS), load) for one, path in paths.items()
    }


def concentrate(pairs: Table, load: Table) -> Concentration:
    """Return the concentration of the tested pairs of one map; `load` has the experts' shares."""
    groups = np.stack([pairs["layer"], pairs["feature"]], axis=1).astype(np.int64)
    keys, group_of = np.unique(groups, axis=0, return_inverse=True)
    top = np.zeros(len(keys))
    np.maximum.at(top, group_of.ravel(), pairs["p_e_given_f"])
    n_feature = np.zeros(len(keys), dtype=np.int64)
    n_feature[group_of.ravel()] = pairs["n_feature"]
    is_called = (pairs["q"] < MAX_Q) & (pairs["lor"] > 0)
    n_called = np.bincount(group_of.ravel(), is_called, len(keys)).astype(int)
    chance = [
        chance_cdf(n_feature[keys[:, 0] == layer], load["share"][load["layer"] == layer])
        * np.sum(keys[:, 0] == layer)
        for layer in np.unique(keys[:, 0])
    ]
    return Concentration(top, n_called, np.sum(chance, axis=0) / max(len(keys), 1))


def chance_cdf(n_feature: np.ndarray, shares_E: np.ndarray) -> np.ndarray:
    """Return P(top share <= SHARES) over features of `n_feature` tokens routed at the base rates.

    The counts of experts are binomial and taken as independent: tokens that agree inside documents
    and the fixed number of experts a token chooses are left out. Numbers of tokens are rounded to
    steps of a quarter of a power of two.
    """
    steps, weights = np.unique(np.round(4 * np.log2(n_feature)), return_counts=True)
    total = np.zeros_like(SHARES)
    for n_tokens, weight in zip(np.round(2 ** (steps / 4)), weights, strict=True):
        below_E = binom.cdf(np.floor(SHARES[:, None] * n_tokens), n_tokens, shares_E)
        total += weight * below_E.prod(axis=1)
    return total / weights.sum()


@styled
def draw_concentration(found: Mapping[Trained, Concentration]) -> Figure:
    """Draw the top expert's share above, and the number of experts a feature calls below."""
    names = list(dict.fromkeys(one.dictionary for one in found))
    windows = list(dict.fromkeys(one.window for one in found))
    colours = dict(zip(windows, depth_colours(len(windows)), strict=True))
    figure = spaced(Figure(figsize=(width_of(len(names)), 5.8), layout="constrained"))
    grid = figure.subplots(2, len(names), sharex="row", sharey="row", squeeze=False)
    for (above, below), name in zip(grid.T, names, strict=True):
        mine = {one: c for one, c in found.items() if one.dictionary == name and len(c.top_share)}
        for one, concentration in mine.items():
            _top_share(above, concentration, colours[one.window], str(one.window))
            _n_called(below, concentration, colours[one.window])
        _frame(above, below, name)
        if not mine:
            empty(above, "no pair was tested")
    grid[0, 0].set_ylabel("share of features at or below")
    grid[1, 0].set(ylabel="share of features (%)", ylim=(0, None))
    legend_right(figure, grid[0, 0], "layers")
    headline(figure, _finding(found), _NOTE)
    return figure


_NOTE = (
    "A feature counts once for each router that it was tested with. Dashed: what chance gives "
    "features of the same numbers of tokens, were tokens independent. Below: experts with a log "
    f"odds ratio above 0 and q < {MAX_Q:g}."
)


def _top_share(axes: Axes, found: Concentration, colour, label: str) -> None:
    cdf = np.searchsorted(np.sort(found.top_share), SHARES, side="right") / len(found.top_share)
    axes.plot(SHARES, cdf, color=colour, label=label)
    axes.plot(SHARES, found.chance_cdf, color=colour, lw=1.1, ls=(0, (4, 3)))


def _n_called(axes: Axes, found: Concentration, colour) -> None:
    counts = np.bincount(np.minimum(found.n_called, MOST), minlength=MOST + 1)
    axes.plot(range(MOST + 1), 100 * counts / counts.sum(), "o-", ms=4, color=colour)


def _frame(above: Axes, below: Axes, name: str) -> None:
    above.set(title=name, xlabel="share of the feature’s tokens with its top expert",
              xlim=(0, 1), ylim=(0, 1.02))  # fmt: skip
    below.set(xlabel="experts of one router that the feature calls")
    below.set_xticks(range(MOST + 1), [*map(str, range(MOST)), f"{MOST}+"])
    for axes in (above, below):
        axes.grid(axis="y", color=FAINT)


def _finding(found: Mapping[Trained, Concentration]) -> str:
    top = np.concatenate([c.top_share for c in found.values()])
    if not len(top):
        return "No pair of a feature and an expert was frequent enough to test"
    sizes = [len(c.top_share) for c in found.values()]
    chance = np.average([c.chance_cdf for c in found.values() if len(c.top_share)], axis=0,
                        weights=[size for size in sizes if size])  # fmt: skip
    by_chance = SHARES[np.searchsorted(chance, 0.5)]
    calling = np.mean(np.concatenate([c.n_called for c in found.values()]) > 0)
    return (
        f"{calling:.0%} of the tested features call at least one expert; the median feature’s "
        f"top expert takes {np.median(top):.0%} of its tokens, by chance {by_chance:.0%}"
    )
