"""Figure of routing predicted: macro-F1 and bits a decision, by router and predictor."""

from collections.abc import Iterator, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepseemoe.names import layer_name
from deepseemoe.report.names import Trained
from deepseemoe.report.style import CATEGORIES, FAINT, MUTED, WIDTH, empty, headline, styled
from deepseemoe.report.tables import RunTables, Table, read_columns, select

SCORE_COLUMNS = (
    "layer", "predictor", "expert", "sees_later", "f1", "f1_lo", "f1_hi", "f1_chance", "bits_base",
    "bits", "bits_lo", "bits_hi", "given_token", "given_token_lo", "reason",
)  # fmt: skip
SHOWN = {
    "features": CATEGORIES[0],
    "random": CATEGORIES[4],
    "random-model": CATEGORIES[5],
    "neurons": CATEGORIES[2],
    "pca": CATEGORIES[3],
    "bigram": CATEGORIES[1],
    "unigram": MUTED,
}


def read_predictions(tables: RunTables) -> dict[Trained, Table]:
    """Return the scores of each dictionary's routers over all experts."""
    found = {}
    for one in tables.trained:
        table = read_columns(tables.at("prediction", one, "scores.parquet"), *SCORE_COLUMNS)
        found[one] = select(table, np.isnan(table["expert"].astype(float)))
    return found


@styled
def draw_predictions(scores: Mapping[Trained, Table]) -> Figure:
    """Draw macro-F1 and bits with intervals, a row for each dictionary, window and router."""
    rows = [(one, layer) for one, table in scores.items() for layer in np.unique(table["layer"])]
    figure = Figure(figsize=(WIDTH, 2.2 + 0.42 * len(rows)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for place, (one, layer) in enumerate(rows):
        table = select(scores[one], scores[one]["layer"] == layer)
        for axes, key in zip(panels, ("f1", "bits"), strict=True):
            _row(axes, table, key, place)
    _frame(panels, scores, rows)
    headline(figure, prediction_finding(scores), _NOTE)
    return figure


_NOTE = (
    "Held-out documents; lines are intervals over documents. Grey: chance for macro-F1, all there "
    "is to save for bits (log loss of the base rate). * The inputs hold what was written after the "
    "router decided."
)


def _row(axes: Axes, table: Table, key: str, place: int) -> None:
    names = [name for name in SHOWN if name in table["predictor"]]
    for step, name in enumerate(names):
        at = int(np.flatnonzero(table["predictor"] == name)[0])
        value, lo, hi = (float(table[key + end][at]) for end in ("", "_lo", "_hi"))
        y = place + 0.72 * ((step + 0.5) / len(names) - 0.5)
        axes.plot([lo, hi], [y, y], color=SHOWN[name], lw=1.4)
        axes.plot([value], [y], "o", color=SHOWN[name], ms=4, label=name)
        edge = table["f1_chance" if key == "f1" else "bits_base"][at]
        axes.plot([edge, edge], [y - 0.05, y + 0.05], color=FAINT, lw=3, zorder=0)


def _frame(panels: np.ndarray, scores: Mapping[Trained, Table], rows: list) -> None:
    names = []
    for one, layer in rows:
        late = scores[one]["sees_later"][scores[one]["layer"] == layer]
        mark = "*" if any(value == 1 for value in late) else ""
        names.append(f"{one} → {layer_name(int(layer))}{mark}")
    panels[0].set_yticks(range(len(rows)), names)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    panels[0].set_xlabel("macro-F1 of the top-k experts")
    panels[1].set_xlabel("bits saved a decision")
    for axes in panels:
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    handles, labels = panels[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if unique:
        panels[0].figure.legend(unique.values(), unique, loc="outside right center")
    if not rows:
        empty(panels[0], "no router was predicted")


def prediction_finding(scores: Mapping[Trained, Table]) -> str:
    """Return what the scores show, as a sentence without its full stop.

    Routers whose inputs hold what was written later are told of only where there are no others.
    """
    routers = [one for named in scores.items() for one in _routers(*named)]
    if not routers:
        return "Routing was not predicted: there are too few documents"
    _, where, f1 = max(routers, key=lambda one: (not one[0], one[2]["features"]))
    told = f"Features of {where} best, with a macro-F1 of {f1['features']:.2f}"
    told += f" against {f1['unigram']:.2f} from the token alone"
    return told + (f" and {f1['neurons']:.2f} from all coordinates" if "neurons" in f1 else "")


def _routers(one: Trained, table: Table) -> Iterator[tuple[bool, str, dict[str, float]]]:
    """Yield of each predicted router whether inputs are late, its name, and F1 by predictor."""
    for at in np.flatnonzero(table["predictor"] == "features"):
        layer = table["layer"][at]
        own = select(table, table["layer"] == layer)
        f1 = dict(zip(own["predictor"], own["f1"].astype(float).tolist(), strict=True))
        if np.isfinite(f1["features"]):
            late = bool(table["sees_later"][at])
            yield late, f"{one} predict {layer_name(int(layer))}", f1
