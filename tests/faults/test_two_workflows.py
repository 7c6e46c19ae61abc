"""Two workflows on one results folder, and one that begins while jobs of a killed one still run."""

import os
import signal
import subprocess
import time

import pytest
from finished import CONFIG, RUN
from killing import jobs_of
from runs import command, prepare, snakemake

MADE = {
    "predict_routing": f"{RUN}/prediction/crosscoder/L00-L01/scores.parquet",
    "train_dictionary": f"{RUN}/dictionary/crosscoder/L00-L01/weights.safetensors",
}
SCORES = MADE["predict_routing"]


def started(workdir, labelled, rule):
    """Start a workflow that makes one file, and wait until its job runs."""
    process = subprocess.Popen(
        command(workdir, CONFIG, *labelled.arguments, MADE[rule]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    claims = workdir / RUN / ".locks/jobs"
    while rule.encode() not in claims.read_bytes():
        assert process.poll() is None
        time.sleep(0.05)
    return process


def held_back(workflow):
    """Suspend the jobs of a workflow, so that all that follows surely meets them; return them."""
    jobs = [job for job, _ in jobs_of(workflow.pid)]
    for job in jobs:
        job.suspend()
    return jobs


def test_a_second_workflow_is_refused(copied, labelled, tmp_path):
    (copied / SCORES).unlink()
    elsewhere = prepare(tmp_path / "elsewhere")
    (elsewhere / "results").symlink_to(copied / "results")
    first = started(copied, labelled, "predict_routing")
    held_back(first)
    for workdir in (copied, elsewhere):
        done = snakemake(workdir, CONFIG, *labelled.arguments, SCORES)
        assert done.returncode == 1
        told = [line for line in done.stdout.splitlines() if "another workflow" in line]
        assert len(told) == 1, done.stdout
        assert f"results/small: another workflow makes this run (process {first.pid} on" in told[0]
        assert "since 20" in told[0]
        assert "predict_routing.py" not in done.stdout
    assert snakemake(elsewhere, CONFIG, "--dry-run", *labelled.arguments, SCORES).returncode == 0
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()


@pytest.mark.parametrize("rule", MADE)
def test_what_an_orphan_is_making_is_waited_for_and_not_made_again(copied, labelled, rule):
    made = (copied / MADE[rule]).read_bytes()
    (copied / MADE[rule]).unlink()
    first = started(copied, labelled, rule)
    orphans = held_back(first)
    first.kill()
    first.wait()
    second = subprocess.Popen(
        command(copied, CONFIG, *labelled.arguments, MADE[rule]),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = ""
    while "waiting for its end" not in said:
        line = second.stdout.readline()
        assert line, said
        said += line
    assert f"process {orphans[0].pid} on" in said
    for job in orphans:
        job.resume()
    said += second.communicate()[0]
    assert second.returncode == 0, said
    assert "nothing is left to be done" in said
    assert (copied / MADE[rule]).read_bytes() == made
    assert not [*copied.glob("**/*.checkpoint*")]  # an orphan keeps them, the one who waited not
