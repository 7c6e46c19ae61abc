"""The target `compare` reads finished runs and makes none of them."""

import shutil

import pyarrow.parquet as pq
import pytest
import yaml
from runs import planned, prepare, snakemake

PARTS = ("config.yaml", "routing", "experts", "labels")


@pytest.fixture(scope="module")
def finished(small_run, tmp_path_factory):
    """Return a folder with two finished runs, of which only tables are left."""
    workdir = prepare(tmp_path_factory.mktemp("finished"))
    for name in ("one", "two"):
        for part in PARTS:
            source = small_run / "results/small" / part
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            (workdir / "results" / name).mkdir(parents=True, exist_ok=True)
            copy(source, workdir / "results" / name / part)
    return workdir


def configured(workdir, *runs):
    """Return the file of a comparison of these runs."""
    file = workdir / "compare.yaml"
    file.write_text(yaml.safe_dump({"name": "both", "compare": {"runs": list(runs)}}))
    return file


def test_it_compares_what_is_there_and_makes_nothing_else(finished):
    config = configured(finished, "one", "results/two")
    plan = planned(finished, config, "compare")
    assert plan == {"compare": 1, "compare_runs": 1, "draw_comparison": 1}
    done = snakemake(finished, config, "compare")
    assert done.returncode == 0, done.stdout[-8000:]
    folder = finished / "results/both/compare"
    rows = pq.read_table(folder / "specialisation.parquet").to_pylist()
    one, two = ([r["value"] for r in rows if r["run"] == run] for run in ("one", "two"))
    assert one == pytest.approx(two)
    assert "Runs side by side" in (folder / "page.html").read_text()
    assert planned(finished, config, "compare") == {}


def test_a_changed_table_is_compared_again(finished):
    config = configured(finished, "one", "results/two")
    snakemake(finished, config, "compare")
    path = finished / "results/two/routing/load.parquet"
    path.write_bytes(path.read_bytes())
    assert "compare_runs" in planned(finished, config, "compare")


def test_a_run_that_is_not_there_is_one_line(finished):
    done = snakemake(finished, configured(finished, "one", "three"), "compare")
    assert done.returncode == 1
    assert "no such run as results/three; results has one, two" in done.stdout
    assert "Traceback" not in done.stdout
