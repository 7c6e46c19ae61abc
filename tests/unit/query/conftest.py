"""One small run for all tests of looking things up."""

import pytest
from run_tables import write_small_run


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The folder of the run."""
    return write_small_run(tmp_path_factory.mktemp("runs") / "it's small")
