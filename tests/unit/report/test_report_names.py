"""What the Snakefile learns of the report before anything runs."""

import subprocess
import sys
from pathlib import Path

from fake_run import large_config, small_config

from deepseemoe.config import load_run
from deepseemoe.report.captions import CAPTIONS
from deepseemoe.report.names import figure_groups, figure_names
from deepseemoe.report.tables import RunTables
from deepseemoe.report.training import read_dictionaries

CAPTION_FILES = Path(__file__).parents[3] / "workflow/report"


def test_every_dictionary_and_window_has_a_heat_map():
    maps = [name for name in figure_names(small_config()) if name.startswith("map_heatmap")]
    assert maps == [
        "map_heatmap_crosscoder_L00-L01",
        "map_heatmap_crosscoder_L01-L02",
        "map_heatmap_transcoder_L00-L01",
        "map_heatmap_transcoder_L01-L02",
    ]


def test_only_a_run_that_trains_its_model_shows_that_training():
    assert "training_model" in figure_names(small_config())
    assert "training_model" not in figure_names(large_config())


def test_every_kind_of_figure_has_both_captions():
    groups = [group.name for group in figure_groups(small_config())]
    assert set(groups) == set(CAPTIONS)
    assert {f"{name}.rst" for name in groups} <= {path.name for path in CAPTION_FILES.iterdir()}


def test_the_snakefile_imports_no_numerical_library():
    code = "import sys, deepseemoe.report.names; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "matplotlib", "pyarrow", "torch"} & set(done.stdout.split())


def test_imported_dictionaries_have_no_training_to_show():
    imported = {"format": "saelens", "folder": "sae"}
    entries = {"sae": {"imported": imported}, "own": {}}
    alone, beside = (
        load_run({"windows": ["L00-L00"], "dictionaries": {n: entries[n] for n in names}})
        for names in (["sae"], ["sae", "own"])
    )
    assert "training_dictionaries" not in figure_names(alone)
    assert "training_dictionaries" in figure_names(beside)
    assert RunTables.of("results", beside).imported == {"sae"}
    assert read_dictionaries(RunTables.of("results", alone)) == {}
