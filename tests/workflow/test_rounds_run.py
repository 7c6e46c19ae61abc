"""A train split larger than the disk: two rounds of stores at a time, and no kill is seen."""

import os
import shutil
import signal
import subprocess
import threading
import time

import pytest
from runs import ROOT, command, digests, planned, snakemake

SMALL = ROOT / "tests/config/small.yaml"
ROUNDS = (SMALL, ROOT / "tests/config/rounds.yaml")
STORES, DICTIONARIES = "results/small/activations/rounds", "results/small/dictionary"
TARGETS = ("--until", "train_last_round_00")


def before_training(small_run, workdir):
    """Copy a finished run, and take away its dictionaries and its train stores."""
    shutil.copytree(small_run, workdir)
    shutil.rmtree(workdir / DICTIONARIES)
    shutil.rmtree(workdir / "results/small/activations/train")
    return workdir


class Watch(threading.Thread):
    """Looks which rounds have stores on the disk, whole or growing, until it is told to end."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder, self.seen, self.is_over = folder, set(), threading.Event()

    def run(self):
        while not self.is_over.wait(0.01):
            names = os.listdir(self.folder) if self.folder.is_dir() else []
            self.seen.add(frozenset(name.split(".")[0] for name in names))


@pytest.fixture(scope="module")
def rounds_run(small_run, tmp_path_factory):
    """Return where a run was made in rounds, and which rounds were on the disk together."""
    workdir = before_training(small_run, tmp_path_factory.mktemp("rounds") / "run")
    watch = Watch(workdir / STORES)
    watch.start()
    done = snakemake(workdir, ROUNDS, *TARGETS)
    watch.is_over.set()
    assert done.returncode == 0, done.stdout[-8000:]
    return workdir, watch.seen


def test_no_more_than_two_rounds_are_on_the_disk(rounds_run):
    _, seen = rounds_run
    assert {name for names in seen for name in names} == {"0000", "0001", "0002", "0003"}
    assert max(map(len, seen)) == 2


def test_nothing_is_left_but_dictionaries_and_nothing_is_made_again(rounds_run):
    workdir, _ = rounds_run
    assert not list((workdir / STORES).glob("*"))
    assert not list(workdir.glob("results/small/rounds/*/*/*"))
    assert not list(workdir.rglob("*.checkpoint"))
    assert planned(workdir, ROUNDS, *TARGETS) == {}


def test_a_change_of_later_stages_makes_no_round_again(rounds_run, tmp_path):
    workdir, _ = rounds_run
    (tmp_path / "later.yaml").write_text("labels: {n_examples: 10}\n")
    plan = planned(workdir, (*ROUNDS, tmp_path / "later.yaml"))
    assert "label_features" in plan
    assert not [rule for rule in plan if "round" in rule]


def kill_snakemake_alone(workdir, is_time):
    """Start a run, and kill -9 Snakemake, not its jobs, once `is_time()`; wait for the jobs."""
    process = subprocess.Popen(
        command(workdir, ROUNDS, *TARGETS), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not is_time():
        time.sleep(0.01)
    was_running = process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while was_running:  # orphans are of its session
        try:
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        except ProcessLookupError:
            break
    return was_running


def test_a_killed_run_goes_on_where_it_was(small_run, rounds_run, tmp_path):
    workdir = before_training(small_run, tmp_path / "run")
    stores = workdir / STORES
    left = workdir / "results/small/rounds/crosscoder/L00-L01/0001"
    assert kill_snakemake_alone(workdir, left.is_dir)
    snakemake(workdir, ROUNDS, "--unlock")
    plan = planned(workdir, ROUNDS, *TARGETS)
    assert plan["cache_round"] <= 2  # of 4: only those that were under way or not begun
    assert plan.get("train_round_00", 0) <= 2
    began = time.time()
    done = snakemake(workdir, ROUNDS, *TARGETS)
    assert done.returncode == 0, done.stdout[-8000:]
    first = workdir / "logs/small/cache_round/0000.log"
    assert first.stat().st_mtime < began
    assert digests(workdir / DICTIONARIES) == digests(rounds_run[0] / DICTIONARIES)
    assert not list(stores.glob("*"))


def test_one_round_of_all_shards_gives_the_dictionaries_of_a_cached_run(small_run, tmp_path):
    workdir = before_training(small_run, tmp_path / "run")
    (tmp_path / "one.yaml").write_text("batches: {round_shards: 4, together: 4}\n")
    done = snakemake(workdir, (SMALL, tmp_path / "one.yaml"), *TARGETS)
    assert done.returncode == 0, done.stdout[-8000:]
    made, cached = digests(workdir / DICTIONARIES), digests(small_run / DICTIONARIES)
    assert made == {name: cached[name] for name in made}
    assert len(made) == 12
