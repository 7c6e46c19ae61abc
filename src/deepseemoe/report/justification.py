"""The figure and page of the target `justify`: should a dictionary span layers, and which."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepseemoe.names import Window
from deepseemoe.report.style import (
    CATEGORIES,
    INK,
    MUTED,
    depth_colours,
    empty,
    headline,
    save_figure,
    spaced,
    styled,
)
from deepseemoe.report.tables import Table, read_columns, read_values, select
from deepseemoe.runtime.files import write_text

COLUMNS = (
    "width", "window", "arm", "endpoint", "layer", "value", "lo", "hi",
    "difference", "difference_lo", "difference_hi",
)  # fmt: skip
KEYS = (
    "sentences", "verdict", "endpoint", "width", "compared_width", "gains", "contrasts",
    "null_gain", "ranked", "similarity",
)  # fmt: skip
ARMS = {
    "crosscoder": CATEGORIES[1],
    "features-l0": CATEGORIES[0],
    "features-pairs": CATEGORIES[4],
    "cost-l0": CATEGORIES[2],
    "cost-pairs": CATEGORIES[3],
    "copy": CATEGORIES[5],
    "shuffled": MUTED,
    "random": INK,
}
"""Arms in the order of legends, and their colours."""
BASELINES = ("unigram", "bigram", "pca")
TITLES = {
    "fvu": "FVU",
    "loss_recovered": "loss recovered",
    "router_agreement": "router agreement",
    "routing_f1": "routing macro-F1",
    "routing_f1_inside": "macro-F1, routers inside",
    "routing_f1_outside": "macro-F1, router after",
    "l0": "L0",
    "pairs": "active pairs",
    "n_features": "features",
    "n_parameters": "parameters",
    "encoder_mflops": "encoder MFLOPs",
    "dead_fraction": "dead",
    "duplicates_per_1k": "duplicates per 1k",
    "functional_layers": "functional layers",
    "decoder_layers": "decoder layers",
    "seed_stability": "seed stability",
}


def write_justification(
    table: Path, finding: Path, *, figures: Sequence[Path], page: Path, run: str
) -> None:
    """Draw the figure in the formats of `figures`, the first an SVG, and write the page with it.

    Raises ValueError where a table lacks a column.
    """
    columns, found = read_columns(table, *COLUMNS), read_values(finding, *KEYS)
    drawn = draw_justification(columns, found)
    for path in figures:
        save_figure(drawn, path)
    write_text(page, render(columns, found, figures[0].read_bytes(), run=run))


@styled
def draw_justification(table: Table, found: Mapping[str, Any]) -> Figure:
    """Draw the endpoint by width, the gains, the layers, and what features of windows are like."""
    figure = Figure(figsize=(11.4, 7.4), layout="constrained")
    panels = figure.subplots(2, 3)
    endpoint = found["endpoint"]
    _by_width(panels[0, 0], table, endpoint, found["width"])
    _gains(panels[0, 1], found)
    _layers(panels[0, 2], table, found)
    other = "loss_recovered" if endpoint != "loss_recovered" else "fvu"
    _by_width(panels[1, 0], table, other, found["width"])
    _effective_layers(panels[1, 1], table)
    _similarity(panels[1, 2], found["similarity"])
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", title="what codes the window")
    headline(figure, _finding(found), _HOW)
    return spaced(figure)


_HOW = (
    "Test documents; bars are intervals over documents and seeds. features: separate SAEs with as "
    "many features as the crosscoder; cost: with as many parameters and FLOPs; -l0: as many active "
    "features; -pairs: as many active (feature, layer) pairs. copy: one SAE's features decoded at "
    "every layer. shuffled: a crosscoder of layers that do not belong together. Dotted: the width "
    "that the rules choose."
)


def _finding(found: Mapping[str, Any]) -> str:
    width, compared = found["width"], found["compared_width"]
    return {
        "better": f"A crosscoder of {compared} layers beats separate SAEs at every equal budget",
        "mixed": f"A crosscoder of {compared} layers beats separate SAEs of equal features and L0, "
        "not every equal budget",
        "artefact": "The crosscoder's gain is no evidence: shuffled layers give it too",
        "no benefit": "No benefit: crosscoders are not better than separate SAEs of equal features "
        "and L0",
    }[found["verdict"]] + f"; chosen width {width}"


def _pooled(table: Table, arm: str, endpoint: str) -> Table:
    """Return the rows of an arm over all windows of each width, by width."""
    rows = (table["arm"] == arm) & (table["endpoint"] == endpoint)
    whole = np.array([window is None for window in table["window"]])
    own = select(table, rows & whole & np.isnan(table["layer"].astype(float)))
    return select(own, np.argsort(own["width"], kind="stable"))


def _by_width(axes: Axes, table: Table, endpoint: str, chosen: int) -> None:
    """Draw an endpoint against the width of windows, a line for each arm."""
    top = 0.0
    for place, (arm, colour) in enumerate(ARMS.items()):
        own = _pooled(table, arm, endpoint)
        if arm == "random" or not len(own["width"]):
            continue
        half = np.stack([own["value"] - own["lo"], own["hi"] - own["value"]])
        is_main = arm == "crosscoder"
        beside = 0.0 if is_main else 0.05 * (place - 3.5)  # so that intervals can be told apart
        axes.errorbar(own["width"] + beside, own["value"], half, color=colour, label=arm, capsize=2,
                      marker="o", ms=5 if is_main else 3.5, lw=2.2 if is_main else 1.2,
                      zorder=3 if is_main else 2)  # fmt: skip
        top = max(top, own["hi"].max())
    axes.axvline(chosen, color=MUTED, lw=1, ls=":", zorder=0)
    axes.set(title=f"{TITLES[endpoint]} by width", xlabel="layers of a window")
    if endpoint == "fvu" and top:
        axes.set_ylim(0, 1.05 * top)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y")


def _gains(axes: Axes, found: Mapping[str, Any]) -> None:
    """Draw how much better the crosscoder is than each arm, and the null's gain."""
    rows = [(f"over {c['arm']}", c["gain"], ARMS[c["arm"]]) for c in found["contrasts"]]
    if found["null_gain"]:
        rows.append(("shuffled, over features-l0", found["null_gain"], ARMS["shuffled"]))
    for place, (_, gain, colour) in enumerate(rows):
        ends = [[gain["value"] - gain["lo"]], [gain["hi"] - gain["value"]]]
        axes.errorbar([gain["value"]], [place], xerr=ends, fmt="o", color=colour, capsize=3, ms=5)
    axes.axvline(0, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=0)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    title = f"gain in {TITLES[found['endpoint']]}, {found['compared_width']} layers"
    axes.set(title=title, xlabel="right of 0: the crosscoder is better")
    axes.grid(axis="x")


def _layers(axes: Axes, table: Table, found: Mapping[str, Any]) -> None:
    """Draw routing macro-F1 beyond the best baseline against the centre of each window."""
    gains = routing_gains(table)
    widths = sorted({len(window.layers) for window in gains})
    if not gains:
        return empty(axes, "no window has a router behind it")
    for width, colour in zip(widths, depth_colours(len(widths)), strict=True):
        own = {w: gain for w, gain in gains.items() if len(w.layers) == width}
        centres = [(w.first + w.last) / 2 for w in own]
        is_chosen = width == found["width"]
        axes.plot(centres, list(own.values()), "o-", color=colour, ms=5 if is_chosen else 3.5,
                  lw=2.2 if is_chosen else 1.0, label=str(width))  # fmt: skip
    axes.axhline(0, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=0)
    axes.set(title="macro-F1 beyond the best baseline", xlabel="centre layer of the window")
    axes.legend(title="layers", ncols=2)
    axes.grid(axis="y")
    return None


def routing_gains(table: Table) -> dict[Window, float]:
    """Return, for each window, the crosscoder's macro-F1 less that of the best baseline."""
    is_mean = np.isnan(table["layer"].astype(float)) & (table["endpoint"] == "routing_f1")
    own = select(table, is_mean & np.array([window is not None for window in table["window"]]))
    found: dict[str, dict[str, float]] = {}
    for window, arm, value in zip(own["window"], own["arm"], own["value"], strict=True):
        found.setdefault(window, {})[arm] = value
    return {
        Window.parse(window): values["crosscoder"] - max(values[name] for name in BASELINES)
        for window, values in found.items()
    }


def _effective_layers(axes: Axes, table: Table) -> None:
    """Draw how many layers drive a feature and how many it is written to."""
    widths = np.unique(table["width"])
    axes.plot(widths, widths, color=MUTED, lw=1, ls=(0, (4, 3)), label="all of the window")
    styles = {"decoder_layers": ("decoder norms", ":"), "functional_layers": ("function", "-")}
    for arm in ("crosscoder", "shuffled"):
        for endpoint, (name, line) in styles.items():
            own = _pooled(table, arm, endpoint)
            if len(own["width"]):
                label = name if arm == "crosscoder" else f"{name}, shuffled"
                axes.plot(own["width"], own["value"], line, marker="o", ms=3.5,
                          color=ARMS[arm], label=label)  # fmt: skip
    axes.set(title="effective layers of a feature", xlabel="layers of a window", ylim=(0.8, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    axes.grid(axis="y")


def _similarity(axes: Axes, similarity: Mapping[str, Any]) -> None:
    """Draw CKA between layers against their distance, with the fitted decay."""
    cka_LL, decay = np.array(similarity["cka"]), similarity["decay_layers"]
    depth = len(cka_LL)
    first, second = np.triu_indices(depth, 1)
    axes.scatter(second - first, cka_LL[first, second], s=16, color=CATEGORIES[0])
    if decay is not None:
        distance = np.linspace(0, max(depth - 1, 1), 60)
        axes.plot(distance, np.exp(-distance / decay), color=MUTED, lw=1.2)
    told = f"decay {decay:.1f} layers" if decay is not None else "no decay"
    title = f"CKA of layers: {told}, prior width {similarity['prior_width']}"
    axes.set(title=title, xlabel="distance in layers", ylim=(0, 1.05))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y")


def render(table: Table, found: Mapping[str, Any], figure: bytes, *, run: str) -> str:
    """Return the page as HTML: sentences, figure, and the table at the width that was compared."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deepseemoe.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    width = found["compared_width"]
    return environment.get_template("justification.html").render(
        run=run,
        found=found,
        width=width,
        image="data:image/svg+xml;base64," + base64.b64encode(figure).decode(),
        titles=TITLES,
        rows=page_rows(table, width),
    )


def page_rows(table: Table, width: int) -> list[tuple[str, dict[str, str]]]:
    """Return each arm at a width with the text of every endpoint, intervals included."""
    rows = []
    for arm in (*ARMS, *BASELINES):
        cells = {}
        for endpoint in TITLES:
            own = _pooled(table, arm, endpoint)
            own = select(own, own["width"] == width)
            cells[endpoint] = _cell(*(own[n][0] for n in ("value", "lo", "hi"))) if len(
                own["value"]
            ) else "–"  # fmt: skip
        if any(text != "–" for text in cells.values()):
            rows.append((arm, cells))
    return rows


def _cell(value: float, lo: float, hi: float) -> str:
    """Return a value with its interval, where it has one."""
    shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return shown if lo != lo else f"{value:.4f} [{lo:.4f}, {hi:.4f}]"
