"""What a stage wrote is compared before the next one reads it; what nobody noted passes."""

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from deepseemoe.runtime import checksums
from deepseemoe.runtime.stage import run_stage


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a run's folder; the test's own folder is the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    yield Path("results/small")
    for handler in logging.getLogger().handlers[:]:
        if isinstance(handler, logging.FileHandler):
            handler.close()
            logging.getLogger().removeHandler(handler)


def stage(rule, inputs, outputs):
    """Run a stage that writes its name to its outputs."""

    def main(job):
        for path in map(Path, job.output):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{rule}: {len(job.input)} files")

    job = SimpleNamespace(
        log=["log"],
        rule=rule,
        threads=1,
        resources={},
        params={},
        config={},
        wildcards=SimpleNamespace(run="small"),
        input=[str(path) for path in inputs],
        output=[str(path) for path in outputs],
    )
    run_stage(main, job)


def test_a_stage_refuses_input_that_is_not_as_it_was_written(folder, capsys):
    weights, table = folder / "model/weights", folder / "routing/load.parquet"
    stage("train_model", [], [weights])
    stage("tabulate_routing", [weights], [table])
    table.unlink()
    weights.write_text("train_model: 1 files")  # one letter, and as many of them
    with pytest.raises(SystemExit):
        stage("tabulate_routing", [weights], [table])
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.endswith(
        "rule tabulate_routing: results/small/model/weights: damaged, its checksum is not that of "
        "what was written; delete results/small/model/weights and run again, which makes it anew"
    )
    assert not table.exists()
    stage("train_model", [], [weights])
    stage("tabulate_routing", [weights], [table])


def test_all_that_is_damaged_is_counted_and_what_is_missing_named(folder):
    outputs = [folder / "labels" / f"{n}.json" for n in range(3)]
    stage("label", [], outputs)
    outputs[0].unlink()
    outputs[2].write_text("")
    with pytest.raises(ValueError, match=r"0\.json: damaged, it is missing; .* \(and 1 more\)$"):
        checksums.check(folder, outputs)


def test_what_has_no_checksum_passes(folder):
    output, other = folder / "a", Path("results/other/a")
    stage("one", [], [output])
    (folder / checksums.FOLDER / "a.json").unlink()
    output.write_text("by hand")
    checksums.check(folder, [output, other])
    stage("two", [output, other] if other.exists() else [output], [folder / "b"])


def test_chunks_of_arrays_are_left_to_their_readers_and_folders_are_looked_through(folder):
    store = folder / "store.zarr"
    (store / "token_id/c/0").mkdir(parents=True)
    for name in ("zarr.json", "token_id/zarr.json", "token_id/c/0/0"):
        (store / name).write_text(name)
    checksums.write(folder, [store])
    listed = json.loads((folder / checksums.FOLDER / "store.zarr.json").read_text())
    assert sorted(listed) == ["token_id/zarr.json", "zarr.json"]
    (store / "token_id/c/0/0").write_text("another")
    checksums.check(folder, [store])
    (store / "token_id/zarr.json").write_text("token_id/zarr.jsom")
    with pytest.raises(ValueError, match="token_id/zarr.json: damaged"):
        checksums.check(folder, [store])


def test_the_same_outputs_have_the_same_lists(folder):
    stage("one", [], [folder / "a"])
    listed = folder / checksums.FOLDER / "a.json"
    before = listed.read_bytes()
    stage("one", [], [folder / "a"])
    assert listed.read_bytes() == before


@pytest.mark.parametrize("text", ["[]", "null", '{"": 5}', '{"": [5]}', '{"": ["5", 1]}', "\0"])
def test_a_list_that_is_none_is_told_in_a_line(folder, text):
    stage("one", [], [folder / "a"])
    listed = folder / checksums.FOLDER / "a.json"
    listed.write_text(text)
    with pytest.raises(ValueError, match=f"^{listed}: a damaged list of checksums; delete it"):
        checksums.check(folder, [folder / "a"])


@pytest.mark.parametrize("place", [checksums.FOLDER, f"{checksums.FOLDER}/routing"])
def test_a_file_where_lists_belong_is_replaced(folder, place):
    output = folder / "routing/load.parquet"
    stage("one", [], [output])
    listed = folder / checksums.FOLDER / "routing/load.parquet.json"
    before = listed.read_bytes()
    shutil.rmtree(folder / place)
    (folder / place).write_text("no folder")
    stage("one", [], [output])
    assert listed.read_bytes() == before
