"""One whole small run, shared by the tests that look at it."""

from pathlib import Path

import pytest
from runs import ROOT, prepare, snakemake

SMALL = ROOT / "tests/config/small.yaml"


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    """Return the folder in which the whole small run was made."""
    workdir = prepare(tmp_path_factory.mktemp("small"))
    done = snakemake(workdir, SMALL)
    assert done.returncode == 0, done.stdout[-8000:]
    return workdir
