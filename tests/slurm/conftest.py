"""The cluster of the tests, and what runs on it while they look.

Snakemake polls SLURM, so most of the time of a run is waiting: the jobs that things happen to wait
in the background while the whole run goes on. Modules run in the order of their names: the cluster,
every rule, faults, and then another cluster, for the status with accounting.
"""

from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import cluster
import host
import pytest
from faulty_run import FaultyRun
from slurm_runs import begin_local, finish, whole_run


@pytest.fixture(scope="session", autouse=True)
def possible() -> None:
    """Skip all tests where no cluster can be started, and say why."""
    if reason := host.cannot_run(cluster.FOLDER):
        pytest.skip(reason)
    try:
        host.install((*host.PACKAGES, *host.ACCOUNTING_PACKAGES))
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def running() -> Iterator[None]:
    """Have a cluster without accounting."""
    cluster.up()
    yield
    cluster.down()


@pytest.fixture(scope="session")
def faulty(running, tmp_path_factory) -> Iterator[FaultyRun]:
    """Return a run of jobs that were cancelled, or whose node died, or that took too much."""
    run = FaultyRun(tmp_path_factory.mktemp("faulty"))
    try:
        run.begin()
        yield run
    finally:
        run.kill()


@pytest.fixture(scope="session")
def beside(tmp_path_factory) -> Iterator[tuple[Path, Popen]]:
    """Return the small run without SLURM, just started: it goes on while jobs are polled."""
    folder = tmp_path_factory.mktemp("local")
    process = begin_local(folder)
    yield folder, process
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def whole(beside, faulty, tmp_path_factory) -> Path:
    """Return the folder of the same run, made by jobs of SLURM, whose Snakemake was killed once."""
    return whole_run(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def local(beside) -> Path:
    """Return the folder of the small run, made on this machine without SLURM."""
    folder, process = beside
    finish(folder, process)
    return folder
