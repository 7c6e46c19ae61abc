"""Figure of how far the kinds of evidence bear each other out, and how many pairs reach which tier.

Needs the summary and the table of agreement of each map.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepseemoe.report.names import Trained
from deepseemoe.report.style import depth_colours, empty, headline, legend_right, spaced, styled
from deepseemoe.report.tables import RunTables, read_columns
from deepseemoe.runtime.files import read_json

KINDS = tuple(combinations(("regression", "weights", "causal"), 2))
TIERS = ("A", "B", "C")
HOW_TO_READ = (
    "Left: tested pairs in ten bins by regression and weights, lowest first; the share whose loss "
    "of choices under ablation has an interval above 0. Middle: mean over experts of the rank "
    "correlation over features; 0 is no agreement. Right: A is found, replicated, and borne out by "
    "regression and ablation."
)


class Evidence(NamedTuple):
    """Of one map: confirmed shares by bin (bins,), rank correlations by kinds, pairs by tier."""

    confirmed: np.ndarray
    spearman: Mapping[tuple[str, str], float]
    tiers: Mapping[str, int]
    n_tested: int


def read_evidence(tables: RunTables) -> dict[Trained, Evidence]:
    """Return the evidence of every map."""
    return {one: _read(tables, one) for one in tables.trained}


@styled
def draw_evidence(evidence: Mapping[Trained, Evidence]) -> Figure:
    """Draw what ablation confirms, how kinds of evidence correlate, and the tiers."""
    figure = spaced(Figure(figsize=(12.7, 3.8), layout="constrained"))
    panels = figure.subplots(1, 3)
    colours = dict(zip(evidence, depth_colours(len(evidence)), strict=True))
    for one, found in evidence.items():
        if found.confirmed.size:
            _calibration(panels[0], found.confirmed, colours[one], str(one))
    if not panels[0].lines:
        empty(panels[0], "ablation reaches no pair")
    _correlations(panels[1], evidence, colours)
    _tiers(panels[2], evidence, colours)
    legend_right(figure, panels[2], "map")
    headline(figure, _finding(evidence), HOW_TO_READ)
    return figure


def _read(tables: RunTables, one: Trained) -> Evidence:
    summary = read_json(tables.at("experts", one, "summary.json"))
    curves = [layer["calibration"] for layer in summary["by_layer"] if layer["calibration"]]
    shares = [[entry["share_causal"] for entry in curve] for curve in curves]
    table = read_columns(tables.at("experts", one, "agreement.parquet"), "one", "other", "spearman")
    spearman = {}
    for first, second in KINDS:
        values = table["spearman"][(table["one"] == first) & (table["other"] == second)]
        known = values[~np.isnan(values)]
        if known.size:
            spearman[first, second] = float(known.mean())
    tiers = {tier: summary.get(f"n_tier_{tier}", 0) for tier in TIERS}
    confirmed = np.mean(shares, axis=0) if shares else np.zeros(0)
    return Evidence(confirmed, spearman, tiers, summary["n_tested"])


def _calibration(axes: Axes, confirmed: np.ndarray, colour, label: str) -> None:
    axes.plot(np.arange(1, confirmed.size + 1), 100 * confirmed, color=colour, label=label, lw=1.5)
    axes.set_xlabel("bin by regression and weights")
    axes.set_ylabel("pairs that ablation confirms (%)")
    axes.set_xticks(range(1, confirmed.size + 1))
    axes.grid(axis="y")


def _correlations(axes: Axes, evidence: Mapping[Trained, Evidence], colours: Mapping) -> None:
    width = 0.8 / len(evidence)
    for place, (one, found) in enumerate(evidence.items()):
        at = [number for number, kinds in enumerate(KINDS) if kinds in found.spearman]
        heights = [found.spearman[KINDS[number]] for number in at]
        axes.bar(np.array(at) + width * (place + 0.5) - 0.4, heights, width, color=colours[one])
    axes.set_xticks(range(len(KINDS)), ["\n".join(kinds) for kinds in KINDS])
    axes.axhline(0, color="black", lw=0.8)
    axes.set_ylabel("rank correlation")
    axes.grid(axis="y")


def _tiers(axes: Axes, evidence: Mapping[Trained, Evidence], colours: Mapping) -> None:
    width = 0.8 / len(evidence)
    for place, (one, found) in enumerate(evidence.items()):
        shares = [100 * found.tiers[tier] / max(found.n_tested, 1) for tier in TIERS]
        where = np.arange(len(TIERS)) + width * (place + 0.5) - 0.4
        axes.bar(where, shares, width, color=colours[one], label=str(one))
    axes.set_xticks(range(len(TIERS)), [f"tier {tier}" for tier in TIERS])
    axes.set_ylabel("tested pairs (%)")
    axes.grid(axis="y")


def _finding(evidence: Mapping[Trained, Evidence]) -> str:
    n_best = sum(found.tiers["A"] for found in evidence.values())
    n_tested = sum(found.n_tested for found in evidence.values())
    told = f"{n_best:,} of {n_tested:,} tested pairs are of tier A"
    curves = [found.confirmed for found in evidence.values() if found.confirmed.size]
    if not curves:
        return told
    low, high = np.mean(curves, axis=0)[[0, -1]]
    return (
        f"{told}; ablation confirms {high:.0%} of those that regression and weights place "
        f"highest, {low:.0%} of the lowest"
    )
