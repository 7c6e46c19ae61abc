"""Two workflows on one results folder, and one that begins while jobs of a killed one still run."""

import os
import subprocess
import time

from finished import CONFIG, RUN
from killing import jobs_of
from runs import command, prepare, snakemake

SCORES = f"{RUN}/prediction/crosscoder/L00-L01/scores.parquet"


def started(workdir, labelled):
    """Start a workflow that makes one table, and wait until its job runs."""
    process = subprocess.Popen(
        command(workdir, CONFIG, *labelled.arguments, SCORES),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    claims = workdir / RUN / ".locks/jobs"
    while b"predict_routing" not in claims.read_bytes():
        assert process.poll() is None
        time.sleep(0.05)
    return process


def test_a_second_workflow_is_refused_and_orphans_are_waited_for(copied, labelled, tmp_path):
    made = (copied / SCORES).read_bytes()
    (copied / SCORES).unlink()
    elsewhere = prepare(tmp_path / "elsewhere")
    (elsewhere / "results").symlink_to(copied / "results")
    first = started(copied, labelled)
    orphans = jobs_of(first.pid)
    for job, _ in orphans:  # held back, so that all that follows surely meets it
        job.suspend()
    for workdir in (copied, elsewhere):
        done = snakemake(workdir, CONFIG, *labelled.arguments, SCORES)
        assert done.returncode == 1
        told = [line for line in done.stdout.splitlines() if "another workflow" in line]
        assert len(told) == 1, done.stdout
        assert f"results/small: another workflow makes this run (process {first.pid} on" in told[0]
        assert "since 20" in told[0]
        assert "predict_routing.py" not in done.stdout
    assert snakemake(elsewhere, CONFIG, "--dry-run", *labelled.arguments, SCORES).returncode == 0
    first.kill()
    first.wait()
    second = subprocess.Popen(
        command(copied, CONFIG, *labelled.arguments, SCORES),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = ""
    while "waiting for its end" not in said:
        line = second.stdout.readline()
        assert line, said
        said += line
    assert f"process {orphans[0][0].pid} on" in said
    for job, _ in orphans:
        job.resume()
    said += second.communicate()[0]
    assert second.returncode == 0, said
    assert "nothing is left to be done" in said
    assert (copied / SCORES).read_bytes() == made
