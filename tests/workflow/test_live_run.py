"""Live training: as good as from stores, without them, and the same bytes however often killed."""

import random
import shutil

import pytest
from runs import ROOT, digests, fault_seed, kill_within, planned, snakemake

from deepseemoe.dictionary.batches import open_stores
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.evaluate import stored_metrics
from deepseemoe.dictionary.site_names import site_names

LIVE = (ROOT / "tests/config/small.yaml", ROOT / "tests/config/live.yaml")


def as_before_training(small_run, workdir):
    """Copy a finished run, and take away its dictionaries and its train stores."""
    shutil.copytree(small_run, workdir)
    shutil.rmtree(workdir / "results/small/dictionary")
    shutil.rmtree(workdir / "results/small/activations/train")
    return workdir


@pytest.fixture(scope="module")
def live_run(small_run, tmp_path_factory):
    workdir = as_before_training(small_run, tmp_path_factory.mktemp("live") / "run")
    done = snakemake(workdir, LIVE, "--until", "train_live")
    assert done.returncode == 0, done.stdout[-8000:]
    return workdir


def test_no_train_store_is_planned_and_the_other_splits_are_kept(small_run, tmp_path):
    workdir = as_before_training(small_run, tmp_path / "plan")
    plan = planned(workdir, LIVE)
    assert plan["train_live"] == 1
    assert "cache_activations" not in plan
    assert "train_dictionary" not in plan


def fvu_of(run, small_run, name):
    """Return the FVU of a run's dictionary on the test stores of the small run."""
    dictionary = Dictionary.load(run / "results/small/dictionary" / name)
    points = (dictionary.reads, dictionary.writes)
    sites = [site for point in points for site in site_names(point, dictionary.window)]
    stores = sorted((small_run / "results/small/activations/test").glob("*.zarr"))
    return stored_metrics(dictionary, open_stores(stores, sites))["fvu_mean"]


@pytest.mark.parametrize("dictionary", ["crosscoder", "transcoder"])
@pytest.mark.parametrize("window", ["L00-L01", "L01-L01"])
def test_a_live_dictionary_fits_as_well_as_a_cached_one(small_run, live_run, dictionary, window):
    name = f"{dictionary}/{window}"
    live, cached = (fvu_of(run, small_run, name) for run in (live_run, small_run))
    assert live == pytest.approx(cached, rel=0.1)  # seeds differ by 2 to 4 %


def test_a_live_run_leaves_nothing_but_dictionaries(live_run):
    assert not (live_run / "results/small/activations/train").exists()
    assert not list(live_run.rglob("*.checkpoint"))
    assert planned(live_run, LIVE, "--until", "train_live") == {}


def test_live_training_that_was_killed_ends_in_the_same_bytes(small_run, live_run, tmp_path):
    workdir = as_before_training(small_run, tmp_path / "killed")
    seed = fault_seed()
    moments = [random.Random(seed + number).uniform(2, 8) for number in range(3)]
    killed = [kill_within(workdir, LIVE, "train_live", seconds) for seconds in moments]
    assert any(killed), f"training was over before the first kill, of {moments}"
    done = snakemake(workdir, LIVE, "--until", "train_live")
    assert done.returncode == 0, done.stdout[-8000:]
    folder = "results/small/dictionary"
    assert digests(workdir / folder) == digests(live_run / folder), f"DEEPSEEMOE_FAULT_SEED={seed}"
