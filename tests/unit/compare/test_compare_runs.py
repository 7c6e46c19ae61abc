"""The stage on folders of finished runs: planted routers of any size agree, bad runs are said."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from planted_run import GROUPS, write_planted_run

from deepseemoe.compare.compare import compare_runs
from deepseemoe.config import load_run
from deepseemoe.config.compare import CompareConfig
from deepseemoe.report.comparison import write_comparison
from deepseemoe.runtime.files import read_json, write_json

SIZES = {"small": (8, 2), "large": (64, 4), "random": (32, 4)}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two runs with one specialisation, made for domains, and one of random routers."""
    root = tmp_path_factory.mktemp("results")
    for name, (n_experts, top_k) in SIZES.items():
        strength = 0 if name == "random" else 0.7
        size = {"n_experts": n_experts, "top_k": top_k, "n_layers": 2}
        write_planted_run(root / name, strength=strength, **size)
    write_planted_run(root / "made", n_experts=4, top_k=1, strength=0.7)
    write_planted_run(
        root / "shuffled", n_experts=4, top_k=1, strength=0.7, experts_of=[1, 2, 3, 0]
    )
    return root


def compared(results, folder, runs):
    config = CompareConfig(runs=runs, n_draws=50)
    compare_runs(config, results=results, folder=folder, seed=0)
    return {path.stem: pq.read_table(path).to_pylist() for path in folder.glob("*.parquet")}


@pytest.fixture(scope="module")
def tables(results, tmp_path_factory):
    """All tables of one comparison."""
    made = {"experts": "separate", "expert_domains": GROUPS}
    runs = ["small", "large", {"run": "random", "experts": "joint"}]
    runs += [{"run": "made", **made}, {"run": str(results / "shuffled"), "label": "mixed", **made}]
    folder = tmp_path_factory.mktemp("compared")
    return compared(results, folder, runs) | {"folder": folder}


def means(tables, measure):
    """Return the mean over layers of a measure, by run."""
    rows = tables["specialisation"]
    return {r["run"]: r for r in rows if r["measure"] == measure and r["layer"] is None}


@pytest.mark.parametrize(
    "measure",
    ["domain_information", "domain_divergence", "token_concentration", "feature_concentration"],
)
def test_runs_of_other_sizes_with_one_specialisation_agree_and_random_is_0(tables, measure):
    found = means(tables, measure)
    assert found["small"]["value"] == pytest.approx(found["large"]["value"], abs=0.04)
    assert found["small"]["value"] > 0.25
    assert abs(found["random"]["value"]) < 0.02
    assert found["random"]["lo"] < 0.02


def test_intervals_hold_the_value_and_tell_runs_apart(tables):
    found = means(tables, "domain_information")
    for row in found.values():
        assert row["lo"] <= row["value"] <= row["hi"]
    assert found["random"]["hi"] < found["small"]["lo"]


def test_contrasts_are_of_every_pair_and_of_separate_against_joint(tables):
    rows = {(r["measure"], r["of"], r["minus"]): r for r in tables["contrast"]}
    kinds = rows["domain_information", "separate", "joint"]
    assert (kinds["n_of"], kinds["n_minus"]) == (2, 1)
    assert kinds["lo"] > 0.2
    alike = rows["domain_information", "small", "large"]
    assert abs(alike["value"]) < 0.04
    assert len([key for key in rows if key[0] == "domain_information"]) == 10 + 1


def test_experts_made_for_domains_are_recovered_and_mixed_ones_are_not(tables):
    rows = {
        (r["run"], r["source"], r["measure"]): r for r in tables["recovery"] if r["layer"] is None
    }
    for source in ("domains", "reads"):
        accuracy = rows["made", source, "accuracy"]
        assert accuracy["value"] == 1
        assert accuracy["lo"] == 1
        assert accuracy["chance"] == pytest.approx(0.25)
        assert accuracy["p_perm"] == pytest.approx(1 / 24)
        assert rows["made", source, "enrichment"]["value"] > 1
        assert rows["mixed", source, "accuracy"]["value"] == 0
        assert rows["mixed", source, "enrichment"]["value"] < 0


def test_runs_that_tell_no_domains_of_experts_have_no_recovery(tables):
    assert {row["run"] for row in tables["recovery"]} == {"made", "mixed"}


def test_maps_and_load_stand_side_by_side(tables):
    assert {row["run"] for row in tables["maps"]} == {"small", "large", "random", "made", "mixed"}
    small = [row for row in tables["load"] if row["run"] == "small"]
    assert len(small) == 2 * 8
    assert sum(row["share"] for row in small) == pytest.approx(2 * 2)
    assert np.mean([row["load"] for row in small]) == pytest.approx(1)
    called = {row["run"]: row["called_share"] for row in tables["maps"] if row["layer"] == 0}
    assert called["random"] < 0.1 < called["small"]
    assert {row["a_share"] for row in tables["maps"]} == {None}, "these maps have no tiers"


def test_the_page_and_figure_show_every_run_and_escape_labels(results, tmp_path):
    compared(results, tmp_path, ["small", {"run": "large", "label": "<b>large\x1b"}])
    write_comparison(tmp_path, figures=[tmp_path / "figure.svg"], page=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;large\\u001b" in page
    assert "<b>large" not in page
    assert (tmp_path / "figure.svg").stat().st_size > 10_000


def test_the_same_comparison_has_the_same_bytes(results, tmp_path):
    for name in ("a", "b"):
        compared(results, tmp_path / name, ["small", "random"])
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_runs_without_domain_labels_are_compared_on_the_rest_with_a_reason(results, tmp_path):
    root = tmp_path / "results"
    bare = {"n_experts": 8, "top_k": 2, "strength": 0.7, "domains": ("unlabelled",) * 4}
    write_planted_run(root / "bare", **bare)
    shutil.copytree(results / "small", root / "small")
    runs = ["small", {"run": "bare", "expert_domains": ["code"] * 8}]
    found = compared(root, tmp_path / "out", runs)
    row = means(found, "domain_information")["bare"]
    assert row["value"] is None
    assert "no domain labels" in row["reason"]
    assert means(found, "token_concentration")["bare"]["value"] > 0.25
    (recovery,) = found["recovery"]
    assert "documents have no labels" in recovery["reason"]
    assert "bare has no domain labels" in read_json(tmp_path / "out/runs.json")["notes"][-1]


def test_information_over_permuted_documents_is_taken_where_a_run_has_it(results, tmp_path):
    """Two bits are all that can be known of four domains that are as frequent as one another."""
    root = copy_of(results, tmp_path / "results")
    bits = {"bits": 1.1, "chance_bits": 0.1, "bits_above_chance": 1.0}
    ends = {"bits_above_chance_lo": 0.8, "bits_above_chance_hi": 1.2, "layer": [0, 1]}
    columns = {n: v if n == "layer" else [v, float("nan")] for n, v in (bits | ends).items()}
    pq.write_table(pa.table(columns), root / "bad/routing/specialisation.parquet")
    rows = compared(root, tmp_path / "out", ["small", "bad"])["specialisation"]
    found = {(r["run"], r["layer"]): r for r in rows if r["measure"] == "domain_information"}
    row = found["bad", 0]
    assert [row["value"], row["lo"], row["hi"]] == pytest.approx([0.5, 0.4, 0.6])
    assert row["chance"] == pytest.approx(0.05)
    assert found["bad", 1]["value"] == pytest.approx(found["small", 1]["value"])


def copy_of(results, root, *, without=None, change=None):
    """Return results with a copy `bad` of the small run that lacks a file or has another config."""
    for name in ("small", "bad"):
        shutil.copytree(results / "small", root / name)
    if without:
        (root / "bad" / without).unlink()
    if change:
        file = root / "bad/config.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | change))
    return root


def test_label_scores_and_reconstruction_stand_beside_those_of_a_control(results, tmp_path):
    """Medians over features by hand; a run without scores says so, and a null lift stays null."""
    root = copy_of(results, tmp_path / "results", change={"model": {
        "source": "nanomoe", "name": None, "expert_domains": [], "random_weights": True,
    }})  # fmt: skip
    accuracy = {"scorer": ["detection"] * 4, "balanced_accuracy": [0.5, 0.6, 0.9, None]}
    pq.write_table(
        pa.table({"feature": [0, 1, 2, 3], **accuracy, "lift": [0.0, 0.1, 0.2, None]}),
        root / "bad/labels/sae/L00-L00/scores.parquet",
    )
    folder = root / "bad/dictionary/sae/L00-L00"
    folder.mkdir(parents=True)
    write_json(folder / "metrics.json", {"fvu_mean": 0.25, "l0": 8.0, "dead_fraction": 0.5})
    found = compared(root, tmp_path / "out", ["small", "bad"])
    rows = {row["run"]: row for row in found["labels"]}
    assert rows["bad"]["balanced_accuracy"] == pytest.approx(0.6)
    assert rows["bad"]["lift"] == pytest.approx(0.1)
    assert (rows["bad"]["scorer"], rows["bad"]["n_scored"]) == ("detection", 3)
    assert rows["bad"]["described_share"] == 1
    assert rows["small"]["reason"] == "scores.parquet is missing"
    assert rows["small"]["balanced_accuracy"] is None
    fvu = {row["run"]: (row["fvu"], row["loss_recovered"]) for row in found["dictionaries"]}
    assert fvu == {"bad": (0.25, None), "small": (None, None)}
    models = {one["run"]: one["model"] for one in read_json(tmp_path / "out/runs.json")["runs"]}
    assert models == {"small": "nanomoe", "bad": "nanomoe (random weights)"}
    page = tmp_path / "page.html"
    write_comparison(tmp_path / "out", figures=[tmp_path / "figure.svg"], page=page)
    assert "0.600" in page.read_text()


def test_only_described_features_count_as_described(results, tmp_path):
    root = copy_of(results, tmp_path / "results")
    path = root / "bad/labels/sae/L00-L00/features.parquet"
    table = pq.read_table(path)
    statuses = ["labelled"] * 6 + ["refused"] * (len(table) - 6)
    place = table.column_names.index("status")
    pq.write_table(table.set_column(place, "status", pa.array(statuses)), path)
    rows = {row["run"]: row for row in compared(root, tmp_path / "out", ["small", "bad"])["labels"]}
    assert rows["bad"]["described_share"] == pytest.approx(6 / len(table))


@pytest.mark.parametrize(
    ("bad", "runs", "line"),
    [
        ({}, ["small"], "compare.runs names 1 runs; name two or more"),
        ({}, ["small", "nope"], "no such run as .*nope; .* has bad, small"),
        ({"without": "config.yaml"}, ["small", "bad"], "is no finished run: it has no config.yaml"),
        ({"without": "routing/domains.parquet"}, ["small", "bad"],
         "is not finished: routing/domains.parquet is missing; finish that run first"),
        ({"without": "experts/sae/L00-L00/reads.parquet"}, ["small", "bad"], "is not finished"),
        ({"change": {"experts": {"format": 2}}}, ["small", "bad"],
         "different formats of experts: small has 1, bad has 2"),
        ({}, ["small", {"run": "bad", "expert_domains": ["code"]}],
         "expert_domains names 1 experts, the routers have 8"),
    ],
)  # fmt: skip
def test_bad_runs_are_said_in_one_line(results, tmp_path, bad, runs, line):
    root = copy_of(results, tmp_path / "results", **bad)
    with pytest.raises(ValueError, match=line) as raised:
        compared(root, tmp_path / "out", runs)
    assert "\n" not in str(raised.value)


def test_an_older_table_is_said_in_one_line(results, tmp_path):
    root = copy_of(results, tmp_path / "results")
    path = root / "bad/experts/sae/L00-L00/reads.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["lor_lo"]), path)
    with pytest.raises(ValueError, match=r"lor_lo missing; an older version made it"):
        compared(root, tmp_path / "out", ["small", "bad"])


def test_one_label_twice_is_refused():
    with pytest.raises(ValueError, match="small stands twice; give each a label"):
        load_run({"compare": {"runs": ["small", "elsewhere/small"]}})
