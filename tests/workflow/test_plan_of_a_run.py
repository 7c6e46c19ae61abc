"""The plan of the small run against what the run left on the disk."""

from pathlib import Path

import pytest
from runs import ROOT

from deepseemoe.cli import merged_config
from deepseemoe.config import RunConfig, load_run
from deepseemoe.plan.dictionaries import shapes_of
from deepseemoe.plan.disk import disk_figures
from deepseemoe.plan.measured import capture_speed
from deepseemoe.plan.network import read_network
from deepseemoe.plan.source import checkpoint_of

SMALL = ROOT / "tests/config/small.yaml"
PLACES = {
    "activations train": "activations/train/*",
    "activations select": "activations/select/*",
    "activations test": "activations/test/*",
    "dictionaries": "dictionary/*/*/weights.safetensors",
}


@pytest.fixture
def run(monkeypatch) -> RunConfig:
    monkeypatch.chdir(ROOT)
    return load_run(merged_config([SMALL]))


def size(results: Path, pattern: str) -> int:
    """Return the bytes of all files that a pattern finds, and of those below them."""
    found = [file for path in results.glob(pattern) for file in (path, *path.rglob("*"))]
    return sum(file.stat().st_size for file in found if file.is_file())


def test_a_finished_run_takes_the_planned_bytes(run, small_run):
    network = read_network(checkpoint_of(run))
    shapes = shapes_of(run, d_model=network.d_model)
    planned = {figure.name: figure.value for figure in disk_figures(run, network, shapes)}
    for name, pattern in PLACES.items():
        made = size(small_run / "results/small", pattern)
        assert planned[name] == pytest.approx(made, rel=0.05), name


def test_the_whole_run_is_planned_within_a_fifth(run, small_run):
    """Corpus, features and examples are estimates, made for large vocabularies and dictionaries."""
    network = read_network(checkpoint_of(run))
    shapes = shapes_of(run, d_model=network.d_model)
    planned = {figure.name: figure.value for figure in disk_figures(run, network, shapes)}
    kept = planned["all"] - planned["checkpoints"]
    folders = ("corpus", "activations", "dictionary", "features")
    made = sum(size(small_run / "results/small", folder) for folder in folders)
    assert kept == pytest.approx(made, rel=0.2)


def test_a_finished_run_gives_its_own_speed(run, small_run, monkeypatch):
    monkeypatch.chdir(small_run)
    found = capture_speed(run)
    assert found is not None
    assert found.tokens_per_second > 1000
    assert "cache_activations" in found.source
