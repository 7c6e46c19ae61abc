"""The figure and page of the target `compare`: finished runs side by side."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepseemoe.report.contexts import visible
from deepseemoe.report.style import (
    MUTED,
    depth_colours,
    empty,
    headline,
    save_figure,
    short,
    spaced,
    styled,
)
from deepseemoe.report.tables import Table, read_columns, read_values, select
from deepseemoe.runtime.files import write_text

SPECIALISATION = ("run", "measure", "dictionary", "window", "layer", "value", "lo", "hi")
LOAD = ("run", "layer", "load", "place")
RECOVERY = (
    "run", "source", "dictionary", "window", "measure", "layer",
    "value", "lo", "hi", "chance", "p_perm", "reason",
)  # fmt: skip
CONTRAST = ("measure", "of", "minus", "value", "lo", "hi", "n_of", "n_minus")
MAPS = (
    "run", "dictionary", "window", "layer", "n_experts", "n_tested", "called_share", "a_share",
    "b_share", "c_share", "median_lor", "features_called", "experts_called",
)  # fmt: skip
DICTIONARIES = ("run", "dictionary", "window", "fvu", "l0", "dead_fraction", "loss_recovered")
LABELS = (
    "run", "dictionary", "window", "scorer", "n_features", "described_share", "n_scored",
    "balanced_accuracy", "lift", "reason",
)  # fmt: skip
MEASURES = {
    "load_concentration": "experts that lie idle",
    "domain_information": "domain: share of what could be known",
    "domain_divergence": "domain, each counting alike",
    "token_concentration": "experts that the token rules out",
    "feature_concentration": "experts that a feature rules out",
}
"""Measures in the order of panels, and their titles."""


def write_comparison(folder: Path, *, figures: Sequence[Path], page: Path) -> None:
    """Draw the figure of the tables in `folder`, the first of `figures` an SVG, and the page."""
    tables = {
        "specialisation": read_columns(folder / "specialisation.parquet", *SPECIALISATION),
        "load": read_columns(folder / "load.parquet", *LOAD),
        "recovery": read_columns(folder / "recovery.parquet", *RECOVERY),
        "contrast": read_columns(folder / "contrast.parquet", *CONTRAST),
        "maps": read_columns(folder / "maps.parquet", *MAPS),
        "dictionaries": read_columns(folder / "dictionaries.parquet", *DICTIONARIES),
        "labels": read_columns(folder / "labels.parquet", *LABELS),
    }
    found = read_values(folder / "runs.json", "runs", "notes")
    drawn = draw_comparison(tables["specialisation"], tables["load"], found)
    for path in figures:
        save_figure(drawn, path)
    write_text(page, render(tables, found, figures[0].read_bytes()))


@styled
def draw_comparison(specialisation: Table, load: Table, found: Mapping[str, Any]) -> Figure:
    """Draw every measure by relative depth, a line for each run, and the load of the experts."""
    runs = [one["run"] for one in found["runs"]]
    colours = dict(zip(runs, depth_colours(len(runs)), strict=True))
    figure = Figure(figsize=(11.4, 6.6), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    for axes, (measure, title) in zip(panels, MEASURES.items(), strict=False):
        _by_depth(axes, specialisation, measure, colours)
        axes.set(title=title, xlabel="depth", xlim=(-0.03, 1.03))
    _loads(panels[-1], load, colours)
    handles, names = panels[-1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", title="run")
    headline(figure, f"Specialisation of {len(runs)} runs", _HOW)
    return spaced(figure)


_HOW = (
    "Measures from 0, a router that does not look (dashed), to 1; chance is taken off, so numbers "
    "of experts and top_k do not matter. Depth: layer over the last routed layer. Bars: 95 % over "
    "documents (domains), token types or features. Feature panel: mean over maps of a layer. Load: "
    "1 is a uniform share."
)


def _by_depth(axes: Axes, table: Table, measure: str, colours: Mapping[str, Any]) -> None:
    for run, colour in colours.items():
        rows = (table["run"] == run) & (table["measure"] == measure)
        own = select(table, rows & np.isfinite(table["layer"].astype(float)))
        depth, value, half = _means(own)
        if depth.size:
            axes.errorbar(
                depth, value, half, color=colour, marker="o", ms=4, lw=1.4, capsize=2,
                label=short(run, 24),
            )  # fmt: skip
    if not axes.has_data():
        return empty(axes, "no run has it")
    axes.axhline(0, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=0)
    axes.grid(axis="y")
    return None


def _means(own: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return depth, mean value and half interval of each layer with a value."""
    own = select(own, np.isfinite(own["value"].astype(float)))
    layers = np.unique(own["layer"].astype(int))
    value, half = np.zeros(layers.size), np.zeros(layers.size)
    for place, layer in enumerate(layers):
        rows = select(own, own["layer"] == layer)
        value[place] = rows["value"].mean()
        half[place] = np.nan_to_num((rows["hi"] - rows["lo"]).astype(float).mean() / 2)
    return layers / max(layers.max(initial=1), 1), value, half


def _loads(axes: Axes, load: Table, colours: Mapping[str, Any]) -> None:
    """Draw the load of experts in rising order, mean over layers."""
    for run, colour in colours.items():
        own = select(load, load["run"] == run)
        places = np.unique(own["place"])
        mean = [own["load"][own["place"] == place].mean() for place in places]
        axes.plot(places, mean, color=colour, lw=1.6, label=short(run, 24))
    axes.axhline(1, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=0)
    axes.set(title="load of experts, in rising order", xlabel="experts", ylim=(0, None))
    axes.grid(axis="y")


def render(tables: Mapping[str, Table], found: Mapping[str, Any], figure: bytes) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deepseemoe.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = lambda value: visible(str(value))
    return environment.get_template("comparison.html").render(
        found=found,
        image="data:image/svg+xml;base64," + base64.b64encode(figure).decode(),
        titles=MEASURES,
        means=[row for row in _rows(tables["specialisation"]) if row["layer"] is None],
        contrasts=_rows(tables["contrast"]),
        recovered=[row for row in _rows(tables["recovery"]) if row["layer"] is None],
        maps=_rows(tables["maps"]),
        dictionaries=_rows(tables["dictionaries"]),
        labels=_rows(tables["labels"]),
        number=_number,
        interval=_interval,
    )


def _rows(table: Table) -> list[dict[str, Any]]:
    """Return a table's rows; NaN, which a null number is read as, becomes None."""
    columns = [[None if v != v else v for v in values.tolist()] for values in table.values()]
    return [dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(row: Mapping[str, Any]) -> str:
    if row["value"] is None or row["lo"] is None:
        return _number(row["value"])
    return f"{row['value']:.3f} ({row['lo']:.3f} … {row['hi']:.3f})"
