"""Live training: as good as from stores, without them, and the same bytes however often killed."""

import shutil

import numpy as np
import pytest
from runs import ROOT, digests, kill_within, planned, snakemake

from deepseemoe.runtime.tables import read_table

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


@pytest.mark.parametrize("dictionary", ["crosscoder", "transcoder"])
@pytest.mark.parametrize("window", ["L00-L01", "L01-L01"])
def test_a_live_dictionary_fits_as_well_as_a_cached_one(small_run, live_run, dictionary, window):
    path = f"results/small/dictionary/{dictionary}/{window}/training.parquet"
    cached, live = (read_table(run / path).to_pylist() for run in (small_run, live_run))
    assert live[-1]["n_tokens"] == cached[-1]["n_tokens"]
    assert live[-1]["l0"] == cached[-1]["l0"]
    # over the last fifth of training: a row covers two batches, which differ by a fifth
    late = [np.mean([row["fvu"] for row in rows[-20:]]) for rows in (cached, live)]
    assert late[1] == pytest.approx(late[0], rel=0.1)


def test_a_live_run_leaves_nothing_but_dictionaries(live_run):
    assert not (live_run / "results/small/activations/train").exists()
    assert not list(live_run.rglob("*.checkpoint"))
    assert planned(live_run, LIVE, "--until", "train_live") == {}


def test_live_training_that_was_killed_ends_in_the_same_bytes(small_run, live_run, tmp_path):
    workdir = as_before_training(small_run, tmp_path / "killed")
    killed = [kill_within(workdir, LIVE, "train_live", seconds) for seconds in (6.0, 8.0)]
    assert any(killed), "training was over before the first kill"
    snakemake(workdir, LIVE, "--unlock")
    done = snakemake(workdir, LIVE, "--until", "train_live")
    assert done.returncode == 0, done.stdout[-8000:]
    folder = "results/small/dictionary"
    assert digests(workdir / folder) == digests(live_run / folder)
