"""Figure of domains: which experts are chosen more often in some kinds of text than in others."""

import numpy as np
from matplotlib.figure import Figure

from deepseemoe.names import ExpertId, layer_name
from deepseemoe.report.grids import (
    MAX_NAMED,
    Panels,
    expert_axis,
    grid_of,
    heat_map,
    log_ratio,
    ratio_bar,
    robust_limit,
)
from deepseemoe.report.style import WIDTH, empty, headline, short, styled
from deepseemoe.report.tables import Table, select

DOMAIN_COLUMNS = ("layer", "expert", "domain", "n_tokens", "share", "lift", "share_lo", "share_hi")
MAX_DOMAINS = 16
_NOTE = (
    "Red: chosen more often in the domain than overall; blue: less often. White: the interval over "
    "documents covers no difference."
)


@styled
def draw_domains(table: Table) -> Figure:
    """Draw the lift of each domain for each expert, a panel for each layer."""
    layers = np.unique(table["layer"]).astype(int)
    names, n_left_out = _largest_domains(table)
    if len(names) < 2:
        return _nothing_to_compare(len(names))
    n_experts = int(table["expert"].max()) + 1
    width, most = (3.5, 3) if n_experts <= MAX_NAMED else (4.4, 2)
    panels = Panels(len(layers), width=width, height=0.45 + 0.2 * len(names), most=most)
    table = _placed(table, names)
    limit = robust_limit(table["clear"], at_least=0.5, at_most=2)
    for place, (axes, layer) in enumerate(zip(panels.axes, layers, strict=True)):
        mine = select(table, table["layer"] == layer)
        grid = grid_of(mine, "clear", "row", "expert", (len(names), n_experts))
        image = heat_map(axes, grid, limit)
        axes.set_title(layer_name(layer))
        expert_axis(axes.xaxis, n_experts)
        shown = [short(name, 18) for name in names] if panels.is_first(place) else []
        axes.set_yticks(range(len(shown)), shown)
    ratio_bar(panels.figure, image, panels.axes, "share in the domain ÷ overall", limit)
    note = f" {n_left_out} smaller domains are not shown." if n_left_out else ""
    headline(panels.figure, domain_finding(table), _NOTE + note)
    return panels.figure


def overall_share(table: Table) -> np.ndarray:
    """Return the share over all domains that each row's lift compares with."""
    return table["share"] / np.maximum(table["lift"], 1e-12)


def _nothing_to_compare(n: int) -> Figure:
    figure = Figure(figsize=(WIDTH, 1.9), layout="constrained")
    what = "no domain label" if n == 0 else "one domain only"
    empty(figure.subplots(), f"The documents of the test split carry {what}.")
    headline(figure, "Domains are not compared in this run")
    return figure


def _largest_domains(table: Table) -> tuple[list[str], int]:
    """Return the names of the largest domains, in alphabetical order, and how many are left out."""
    names = [name for name in dict.fromkeys(table["domain"]) if name is not None]
    size = {name: table["n_tokens"][table["domain"] == name].sum() for name in names}
    largest = sorted(names, key=lambda name: (-size[name], name))[:MAX_DOMAINS]
    return sorted(largest), len(names) - len(largest)


def _placed(table: Table, names: list[str]) -> Table:
    """Return the rows of `names` with their row in a panel and log2 lift, 0 where not clear."""
    row_of = {name: row for row, name in enumerate(names)}
    kept = select(table, np.array([name in row_of for name in table["domain"]], dtype=bool))
    overall = overall_share(kept)
    is_clear = (kept["share_lo"] > overall) | (kept["share_hi"] < overall)
    rows = np.array([row_of[name] for name in kept["domain"]])
    return {**kept, "row": rows, "clear": log_ratio(kept["lift"]) * is_clear}


def domain_finding(table: Table) -> str:
    """Return what the domains show, as a sentence without its full stop."""
    if len({*table["domain"]} - {None}) < 2:
        return "Domains are not compared: the test split has fewer than two"
    overall = np.maximum(overall_share(table), 1e-12)
    low, high = table["share_lo"] / overall, table["share_hi"] / overall
    surest = int(np.argmax(np.nan_to_num(low)))  # NaN: a domain of one document has no interval
    if not low[surest] > 1:
        return "No expert clearly prefers a domain"
    expert = ExpertId(int(table["layer"][surest]), int(table["expert"][surest]))
    return (
        f"{expert} stands out for {short(table['domain'][surest], 30)}: it is chosen "
        f"{table['lift'][surest]:.2f} times as often as overall "
        f"[{low[surest]:.2f}, {high[surest]:.2f}]"
    )
