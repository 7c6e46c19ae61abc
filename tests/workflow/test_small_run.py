"""The whole embedded run, small: made again it does nothing, and it reruns only what it must."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from runs import ROOT, planned, snakemake

from deepseemoe.names import ExpertId
from deepseemoe.query.look import look
from deepseemoe.query.sections import as_text

SMALL = ROOT / "tests/config/small.yaml"
DOWNSTREAM_OF_LABELS = {"label_features", "label_experts", "draw_figures", "write_summary"}


@pytest.fixture(scope="module")
def own_run(small_run, tmp_path_factory) -> Path:
    """Return a copy of the small run, for others read it while these tests plan and hide files."""
    folder = tmp_path_factory.mktemp("own") / "run"
    return Path(shutil.copytree(small_run, folder, symlinks=True))


def changed(own_run, setting):
    """Return the rules that would run where one key is changed."""
    return set(planned(own_run, SMALL, "--config", setting)) - {"all"}


def test_a_second_run_does_nothing(own_run):
    assert planned(own_run, SMALL) == {}


def test_no_result_is_left_half_made(own_run):
    left = [
        path for path in own_run.rglob("*") if ".partial" in path.name or "checkpoint" in path.name
    ]
    assert left == []


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("report={'n_experts': 3}", {"draw_figures", "write_summary"}),
        ("labels={'n_examples': 5}", DOWNSTREAM_OF_LABELS),
        (
            "routing={'min_token_count': 7}",
            {"tabulate_routing", "label_experts", "draw_figures", "write_summary"},
        ),
        ("routing={'n_shifts': 25}", {"trace_paths", "draw_figures", "write_summary"}),
        (
            "routing={'token_top_p': 0.3}",
            {"measure_specialisation", "draw_figures", "write_summary"},
        ),
        (
            "experts={'confidence': 0.9}",
            {
                "measure_effects",
                "map_reads",
                "map_writes",
                "label_features",
                "label_experts",
                "draw_figures",
                "write_summary",
            },
        ),
        (
            "prediction={'n_bootstrap': 60}",
            {"predict_routing", "draw_figures", "write_summary"},
        ),
        ("features={'n_top': 4}", {"collect_examples"} | DOWNSTREAM_OF_LABELS),
    ],
)
def test_a_changed_key_reruns_its_stage_and_what_follows(own_run, setting, expected):
    assert changed(own_run, setting) == expected | {"write_config"}


def test_a_changed_dictionary_reruns_no_other_dictionary(own_run):
    plan = planned(own_run, SMALL, "--config", "dictionaries={'transcoder': {'k': 9}}")
    assert plan["train_dictionary"] == 2, "one for each window"
    assert plan["map_writes"] == 2
    assert "cache_activations" not in plan
    assert "train_model" not in plan


def test_a_deleted_label_file_rebuilds_labels_and_what_follows(own_run):
    labels = own_run / "results/small/labels/crosscoder/L00-L01/features.parquet"
    kept = labels.with_suffix(".kept")
    labels.rename(kept)
    try:
        plan = planned(own_run, SMALL)
    finally:
        kept.rename(labels)
    assert set(plan) - {"all"} == DOWNSTREAM_OF_LABELS
    assert plan["label_features"] == 1


def test_the_snakemake_report_holds_the_figures(own_run, tmp_path):
    page = tmp_path / "report.html"
    done = snakemake(own_run, SMALL, "--report", str(page))
    assert done.returncode == 0, done.stdout[-4000:]
    assert page.stat().st_size > 100_000
    assert "map_heatmap_crosscoder" in page.read_text()


def test_a_finished_run_can_be_looked_up(own_run):
    results = own_run / "results/small"
    reads = pq.read_table(results / "experts/crosscoder/L00-L01/reads.parquet").to_pylist()
    first = next(row for row in reads if row["rank"] == 1)
    expert, feature = ExpertId(first["layer"], first["expert"]), first["feature"]
    assert f"L00-L01.F{feature:05d}" in as_text(look(results, str(expert)))
    assert str(expert) in as_text(look(results, f"L00-L01.F{feature:05d}"))
    with pytest.raises(ValueError, match="it has crosscoder, transcoder"):
        look(results, "L01.E0", dictionary="sae")
    with pytest.raises(ValueError, match="no label and no token holds"):
        look(results, "a word that no label has")
