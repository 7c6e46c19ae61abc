"""The figure and page of the target `trust`: how far the maps of a run may be believed."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepseemoe.report.style import (
    CATEGORIES,
    INK,
    MUTED,
    empty,
    headline,
    save_figure,
    spaced,
    styled,
)
from deepseemoe.report.tables import Table, read_columns, read_values
from deepseemoe.runtime.files import write_text

PLANTED = ("family", "preset", "seed", "order", "measure", "value")
NULLS = (
    "source",
    "null",
    "dictionary",
    "window",
    "seed",
    "statistic",
    "nominal",
    "n_pairs",
    "rate",
)
KEYS = ("verdict", "sentences", "claims")
ORDERS = {
    "default": INK,
    "beta_sel": CATEGORIES[0],
    "causal_dp": CATEGORIES[1],
    "w_map": CATEGORIES[2],
    "rd": CATEGORIES[3],
    "rho": CATEGORIES[4],
    "cosine": CATEGORIES[5],
    "p_e_given_f": MUTED,
}
"""Orders that the figure shows, and their colours."""


def write_trust(
    planted: Path,
    nulls: Path,
    summary: Path,
    *,
    figures: Sequence[Path],
    page: Path,
    run: str,
) -> None:
    """Draw the figure in the formats of `figures`, the first an SVG, and write the page with it.

    Raises ValueError where a table lacks a column.
    """
    worlds, rates = read_columns(planted, *PLANTED), read_columns(nulls, *NULLS)
    found = read_values(summary, *KEYS)
    drawn = draw_trust(worlds, rates, found)
    for path in figures:
        save_figure(drawn, path)
    write_text(page, render(found, figures[0].read_bytes(), run=run))


@styled
def draw_trust(worlds: Table, rates: Table, found: Mapping[str, Any]) -> Figure:
    """Draw average precision by order and world, precision by tier, and false finds in nulls."""
    figure = Figure(figsize=(11.4, 4.4), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=(1.4, 1, 1.2))
    _orders(panels[0], worlds)
    _tiers(panels[1], worlds)
    _nulls(panels[2], rates)
    headline(figure, found["verdict"], _HOW)
    return spaced(figure)


_HOW = (
    "Planted worlds know which features cause which choices; a dot is a world. Tiers: shares of "
    "tier's pairs that are causes. Nulls: pairs found by p_perm as a multiple of the nominal rate, "
    "dots are worlds or draws; the dashed line is the 1.5 that is allowed."
)


def _orders(axes: Axes, worlds: Table) -> None:
    """Draw the average precision of each order in each kind of world."""
    kinds = list(dict.fromkeys(zip(worlds["family"], worlds["preset"], strict=True)))
    for number, (order, colour) in enumerate(ORDERS.items()):
        mine = (worlds["order"] == order) & (worlds["measure"] == "ap")
        for place, (family, preset) in enumerate(kinds):
            values = worlds["value"][
                mine & (worlds["family"] == family) & (worlds["preset"] == preset)
            ]
            at = np.full(values.size, place + 0.09 * (number - 3.5))
            axes.plot(at, values, "o", ms=3, color=colour, label=order if not place else None)
    axes.set_xticks(range(len(kinds)), [f"{family}\n{preset}" for family, preset in kinds])
    axes.set(title="average precision by order", ylim=(0, 1.02))
    axes.legend(ncols=2, loc="lower left")
    axes.grid(axis="y")


def _tiers(axes: Axes, worlds: Table) -> None:
    """Draw which share of each tier's pairs are causes, by world."""
    drawn = False
    for place, tier in enumerate("ABC"):
        for number, preset in enumerate(dict.fromkeys(worlds["preset"])):
            mine = (worlds["measure"] == f"precision_tier_{tier}") & (worlds["preset"] == preset)
            values = worlds["value"][mine].astype(float)
            at = np.full(values.size, place + 0.2 * (number - 1))
            axes.plot(at, values, "o", ms=3, color=CATEGORIES[number],
                      label=preset if not place else None)  # fmt: skip
            drawn |= bool(values.size)
    if not drawn:
        return empty(axes, "no tiers")
    axes.set_xticks(range(3), [*"ABC"])
    axes.set(title="share of causes by tier", xlabel="tier", ylim=(0, 1.02))
    axes.legend()
    axes.grid(axis="y")
    return None


def _nulls(axes: Axes, rates: Table) -> None:
    """Draw the rate of false finds of each null, as a multiple of the nominal one."""
    is_p = rates["statistic"] == "p_perm"
    names = np.array(
        [f"{source}: {null}" for source, null in zip(rates["source"], rates["null"], strict=True)]
    )
    shown = list(dict.fromkeys(names[is_p]))
    if not shown:
        return empty(axes, "no nulls")
    for number, alpha in enumerate((0.05, 0.01)):
        for place, name in enumerate(shown):
            mine = is_p & (names == name) & np.isclose(rates["nominal"].astype(float), alpha)
            times = rates["rate"][mine].astype(float) / alpha
            at = np.full(times.size, place + 0.2 * (number - 0.5))
            axes.plot(times, at, "o", ms=3, color=CATEGORIES[number],
                      label=f"at {alpha}" if not place else None)  # fmt: skip
    axes.axvline(1, color=MUTED, lw=1)
    axes.axvline(1.5, color=MUTED, lw=1, ls=(0, (4, 3)))
    axes.set_yticks(range(len(shown)), shown)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set(title="false finds / nominal", xlabel="1 is calibrated")
    axes.set_xlim(left=0)
    axes.legend()
    axes.grid(axis="x")
    return None


def render(found: Mapping[str, Any], figure: bytes, *, run: str) -> str:
    """Return the page as HTML: verdict, sentences, figure, and every claim with its target."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deepseemoe.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("trust.html").render(
        run=run,
        found=found,
        image="data:image/svg+xml;base64," + base64.b64encode(figure).decode(),
        rows=[_cells(claim) for claim in found["claims"]],
    )


def _cells(claim: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of one claim's row."""
    bounds = [claim[name] for name in ("lo", "hi")]
    interval = "" if None in bounds else "[{:.4g}, {:.4g}]".format(*bounds)
    return {
        "about": claim["about"],
        "what": claim["what"],
        "value": "–" if claim["value"] is None else f"{claim['value']:.4g}",
        "interval": interval,
        "target": "" if claim["target"] is None else f"{claim['target']:.3g}",
        "met": {True: "met", False: "missed", None: ""}[claim["met"]],
    }
