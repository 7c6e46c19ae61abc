"""The same profile where SLURM keeps accounts, by squeue as it says and by sacct."""

import re
import signal
from pathlib import Path

import cluster
import pytest
from slurm_runs import begin, command, finish, jobs, running_jobs, through_slurm, until

SNAKEFILE = Path(__file__).with_name("faults.smk")


@pytest.fixture(scope="module", autouse=True)
def with_accounting(possible):
    """Have a cluster with accounting, in place of any other."""
    cluster.up(accounting=True)
    yield
    cluster.down()


def run(folder: Path, targets: list[str], *options: str):
    """Return a run of some of the jobs in faults.smk, just started."""
    call = command(folder, *targets, *through_slurm(), *options, snakefile=SNAKEFILE)
    return begin(folder, call)


def test_an_interrupt_cancels_the_jobs(tmp_path):
    process = run(tmp_path, ["faults/on_dying_node.txt"])
    (number,) = until(lambda: running_jobs("on_dying_node"))
    process.send_signal(signal.SIGINT)
    assert process.wait(120) != 0
    until(lambda: [number, "CANCELLED"] in jobs("%i", "%T"))


def test_squeue_and_sacct_see_jobs_end_well_and_badly(tmp_path):
    folders = {name: tmp_path / name for name in ("squeue", "sacct", "fails")}
    for folder in folders.values():
        folder.mkdir()
    devices = ["faults/device-0.txt", "faults/device-1.txt"]
    models = ("--config", "devices={model: cuda}")
    good = run(folders["squeue"], devices, *models)
    other = run(folders["sacct"], devices, "--slurm-status-command", "sacct", *models)
    bad = run(
        *(folders["fails"], ["faults/fails.txt"], "--slurm-status-command", "sacct"),
        *("--retries", "0"),
    )
    finish(folders["squeue"], good)
    finish(folders["sacct"], other)
    assert bad.wait(300) == 1
    text = (folders["fails"] / "screen").read_text()
    assert "SLURM status is: 'FAILED'" in text
    assert "rule fails: this file is wrong" in text
    assert re.search(r"^rule fails, SLURM job \d+: it failed; what it said stands", text, re.M)
    for name in ("squeue", "sacct"):
        granted = {path.read_text() for path in (folders[name] / "faults").iterdir()}
        assert all(len(line.split()) == 2 for line in granted), "a node and one GPU"
