"""One finished run, which the tests copy and spoil."""

import os
import shutil
from pathlib import Path

import pytest
from finished import CONFIG, Labelled
from llm_brains import Lexical
from llm_server import Server
from runs import prepare, snakemake


@pytest.fixture(scope="session")
def labelled():
    os.environ["DEEPSEEMOE_TEST_KEY"] = "sk-of-nobody"
    with Server(Lexical()) as server:
        port = server.port
    yield Labelled(port)
    del os.environ["DEEPSEEMOE_TEST_KEY"]


@pytest.fixture(scope="session")
def undisturbed(labelled, tmp_path_factory) -> Path:
    """Return the folder of a run that nothing happened to."""
    workdir = prepare(tmp_path_factory.mktemp("undisturbed"))
    with labelled.server():
        done = snakemake(workdir, CONFIG, *labelled.arguments)
    assert done.returncode == 0, done.stdout[-8000:]
    return workdir


@pytest.fixture
def copied(undisturbed, tmp_path) -> Path:
    """Return a copy of the run that a test may spoil; metadata of Snakemake and times are kept."""
    return Path(shutil.copytree(undisturbed, tmp_path / "copied", symlinks=True))
