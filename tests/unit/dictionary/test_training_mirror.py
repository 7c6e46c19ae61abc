"""wandb gets the rows of the training table, and changes nothing."""

import sys

import pytest
from planted_training import QUICK, files, train

from deepseemoe.runtime.tables import read_table


def test_a_wandb_project_without_wandb_is_an_error(crosscoder_world, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    settings = {**QUICK, "wandb_project": "demo"}
    with pytest.raises(ValueError, match="wandb is not installed; run `pip install wandb`"):
        train(crosscoder_world[:1], crosscoder_world[:1], tmp_path / "out", **settings)


def test_a_wandb_project_gets_every_row_and_changes_no_byte(
    crosscoder_world, tmp_path, monkeypatch
):
    shown = []

    class Run:
        def log(self, row, step):
            shown.append((step, row))

        def finish(self):
            shown.append("finished")

    class Wandb:
        @staticmethod
        def init(project, name, config):
            shown.append((project, name, config["config"]["k"]))
            return Run()

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    stores = crosscoder_world[:1]
    train(stores, stores, tmp_path / "cc" / "L00-L01", wandb_project="demo", **QUICK)
    train(stores, stores, tmp_path / "plain" / "L00-L01", **QUICK)
    rows = read_table(tmp_path / "cc" / "L00-L01" / "training.parquet").to_pylist()
    assert shown == [("demo", "cc L00-L01", 3), *((r["step"], r) for r in rows), "finished"]
    assert files(tmp_path / "cc" / "L00-L01") == files(tmp_path / "plain" / "L00-L01")
