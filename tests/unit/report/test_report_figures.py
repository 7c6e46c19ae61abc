"""The figures of a run: all of them, the same bytes again, and a word where there is nothing."""

import matplotlib as mpl
import numpy as np
import pytest
from fake_maps import no_pairs
from fake_predictions import no_scores
from matplotlib.figure import Figure

from deepseemoe.names import Window
from deepseemoe.report.coactivation import draw_coactivation
from deepseemoe.report.concentration import concentrate, draw_concentration
from deepseemoe.report.density import draw_density, read_densities
from deepseemoe.report.domains import DOMAIN_COLUMNS, draw_domains
from deepseemoe.report.heatmap import draw_heat_map
from deepseemoe.report.labels import Scores, draw_scores
from deepseemoe.report.load import LOAD_COLUMNS, draw_load
from deepseemoe.report.maps import KEPT_COLUMNS, Map, read_map
from deepseemoe.report.names import Trained, figure_names
from deepseemoe.report.prediction import draw_predictions, read_predictions
from deepseemoe.report.reconstruction import draw_reconstruction, read_metrics
from deepseemoe.report.style import save_figure

ONE = Trained("crosscoder", Window(0, 1))


def texts(figure: Figure) -> str:
    """Return all text of a figure."""
    found = figure.findobj(mpl.text.Text)
    return " | ".join(text.get_text().replace("\n", " ") for text in found if text.get_text())


def test_exactly_the_named_figures_are_drawn(run, figures):
    assert {path.name for path in figures.iterdir()} == {f"{n}.svg" for n in figure_names(run)}


def test_a_figure_is_the_same_bytes_again(run, tables, figures, tmp_path):
    again = draw_heat_map(tables.trained[0], read_map(tables, tables.trained[0]), n_features=40)
    save_figure(again, tmp_path / "again.svg")
    first = figures / f"map_heatmap_{tables.trained[0].stem}.svg"
    assert (tmp_path / "again.svg").read_bytes() == first.read_bytes()


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_other_formats_are_the_same_bytes_again(kind, tables, tmp_path):
    for name in ("a", "b"):
        save_figure(draw_density(read_densities(tables)), tmp_path / f"{name}.{kind}")
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_drawing_leaves_the_callers_style_alone(tables):
    before = dict(mpl.rcParams)
    draw_density(read_densities(tables))
    assert dict(mpl.rcParams) == before


def test_the_heat_map_tells_how_many_pairs_are_kept(tables):
    found = read_map(tables, tables.trained[0])
    shown = texts(draw_heat_map(tables.trained[0], found, n_features=40))
    assert f"{len(found.kept['q']):,} of {found.n_tested:,} tested pairs" in shown


def test_a_map_without_kept_pairs_says_so():
    kept = {name: np.zeros(0) for name in KEPT_COLUMNS}
    shown = texts(draw_heat_map(ONE, Map(kept, 321, {}, 8), n_features=10))
    assert "none of 321 tested pairs is kept" in shown


def test_a_run_without_tested_pairs_says_so():
    load = {"layer": np.zeros(2, int), "share": np.ones(2)}
    shown = texts(draw_concentration({ONE: concentrate(no_pairs(), load)}))
    assert "No pair of a feature and an expert was frequent enough" in shown


def test_a_label_cannot_start_a_formula(tmp_path):
    table = {name: np.array([1.0]) for name in KEPT_COLUMNS} | {"layer": np.array([0])}
    figure = draw_heat_map(ONE, Map(table, 1, {1: r"$\frac{1}{0$ 中"}, 2), n_features=2)
    assert r"$\frac{1}{0$ □" in texts(figure)
    save_figure(figure, tmp_path / "map.svg")


def test_the_busiest_expert_is_in_the_title():
    rows = [(0, 0, 0.5, 0.2), (0, 1, 1.5, 0.8), (3, 0, 1.0, 0.5), (3, 1, 1.0, 0.5)]
    table = dict(zip(LOAD_COLUMNS, map(np.array, zip(*rows, strict=True)), strict=True))
    assert "L00.E1 is the busiest expert, with 1.50 times" in texts(draw_load(table))


def test_an_expert_without_load_is_drawn():
    rows = [(0, 0, 0.0, 0.0), (0, 1, 2.0, 1.0)]
    table = dict(zip(LOAD_COLUMNS, map(np.array, zip(*rows, strict=True)), strict=True))
    assert "2.00 times" in texts(draw_load(table))


def domain_table(rows):
    columns = [np.array(values, dtype=object if n == 2 else None)
               for n, values in enumerate(zip(*rows, strict=True))]  # fmt: skip
    return dict(zip(DOMAIN_COLUMNS, columns, strict=True))


def test_a_domain_stands_out_by_the_lower_end_of_its_interval():
    rows = [
        (0, 0, "law", 10, 0.9, 3.0, 0.2, 1.6),  # overall .3: an interval from 0.67 on
        (0, 0, "maths", 10, 0.6, 2.0, 0.5, 0.7),
        (0, 0, "one document", 10, 0.9, 3.0, np.nan, np.nan),
    ]
    assert "L00.E0 stands out for maths" in texts(draw_domains(domain_table(rows)))


def test_one_domain_is_not_compared():
    shown = texts(draw_domains(domain_table([(0, 0, "all", 9, 0.5, 1.0, 0.4, 0.6)])))
    assert "Domains are not compared in this run" in shown


def test_routers_that_choose_one_expert_have_no_pairs():
    table = {name: np.zeros(4, int) for name in ("layer", "expert_a", "expert_b", "n_tokens")}
    assert "there are no pairs" in texts(draw_coactivation(table))


def test_what_was_not_measured_is_said(tables):
    metrics = {one: {**m, "router_agreement": None} for one, m in read_metrics(tables).items()}
    assert "not measured" in texts(draw_reconstruction(metrics))


def test_labels_that_nobody_scored_are_said():
    nothing = np.array([np.nan])
    empty = {"scorer": np.array(["execution"]), "balanced_accuracy": nothing, "lift": nothing}
    assert "No label was scored" in texts(draw_scores({ONE: Scores(empty, None)}))


def test_the_best_predicted_router_is_in_the_title(tables):
    scores = read_predictions(tables)
    best = max(float(t["f1"][t["predictor"] == "features"].max()) for t in scores.values())
    shown = texts(draw_predictions(scores))
    assert f"a macro-F1 of {best:.2f} against" in shown
    assert "from all coordinates" in shown


def test_routers_that_are_told_of_decided_after_their_inputs(tables):
    one, table = next(iter(read_predictions(tables).items()))
    late = {**table, "layer": table["layer"] + 50, "sees_later": table["sees_later"] | True}
    late["f1"] = late["f1"] + 0.01
    other = Trained("other", one.window)
    shown = texts(draw_predictions({one: table, other: late}))
    assert f"Features of {one} predict" in shown


def test_routing_that_was_not_predicted_is_said():
    assert "Routing was not predicted" in texts(draw_predictions({ONE: no_scores([1, 2])}))
