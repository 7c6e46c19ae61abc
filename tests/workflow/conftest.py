"""One whole small run, shared by the tests that look at it."""

import os
from pathlib import Path

import pytest
from filelock import FileLock
from runs import ROOT, prepare, snakemake

SMALL = ROOT / "tests/config/small.yaml"


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    """Return the folder in which the whole small run was made; nobody may change it.

    Where several processes test, one makes it and the others wait.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    workdir = shared / "small"
    with FileLock(shared / "small.lock"):
        if not workdir.exists():
            prepare(workdir)
            done = snakemake(workdir, SMALL)
            (shared / "small.out").write_text(done.stdout)
            (shared / "small.code").write_text(str(done.returncode))
    assert (shared / "small.code").read_text() == "0", (shared / "small.out").read_text()[-8000:]
    return workdir
