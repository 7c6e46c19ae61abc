"""One small run for all tests of the report, with its figures."""

import pytest
from fake_run import small_config, write_run

from deepseemoe.report.figures import draw_figures
from deepseemoe.report.tables import RunTables

SMALL = {"d_dict": 256, "k": 8}


@pytest.fixture(scope="session")
def run():
    """Two dictionaries on two windows, and figures of few rows."""
    return small_config(
        dictionaries={"crosscoder": SMALL, "transcoder": {"kind": "transcoder", **SMALL}},
        report={
            "formats": ["svg"],
            "heatmap_features": 40,
            "n_experts": 3,
            "contexts_per_feature": 2,
        },
    )


@pytest.fixture(scope="session")
def tables(run, tmp_path_factory):
    """The tables of the run."""
    return RunTables.of(write_run(tmp_path_factory.mktemp("runs") / "fake", run), run)


@pytest.fixture(scope="session")
def figures(run, tables):
    """The folder of the run's figures."""
    folder = tables.root / "report/figures"
    draw_figures(run.report, run=run, tables=tables, folder=folder)
    return folder
