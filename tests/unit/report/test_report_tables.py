"""Tables are read by name, and what is missing is named."""

import numpy as np
import pytest
from fake_run import save

from deepseemoe.report.tables import read_columns, read_kept, read_values, select
from deepseemoe.runtime.files import write_json


def test_a_missing_column_is_named_with_what_is_there(tmp_path):
    save(tmp_path / "load.parquet", {"layer": [0], "expert": [1]})
    with pytest.raises(
        ValueError, match=r"load.parquet: load missing; found layer, expert; remake"
    ):
        read_columns(tmp_path / "load.parquet", "layer", "load")


def test_a_missing_metric_is_named(tmp_path):
    write_json(tmp_path / "metrics.json", {"fvu": [0.1]})
    with pytest.raises(ValueError, match=r"metrics.json: l0, k missing; found fvu"):
        read_values(tmp_path / "metrics.json", "fvu", "l0", "k")


def test_only_pairs_below_the_threshold_are_read(tmp_path):
    save(tmp_path / "reads.parquet", {"feature": [1, 2, 3], "q": [0.01, 0.05, 0.2]})
    assert read_kept(tmp_path / "reads.parquet", "feature")["feature"].tolist() == [1]


def test_integers_with_nulls_become_nan(tmp_path):
    save(tmp_path / "documents.parquet", {"doc_id": [4, None]})
    assert np.isnan(read_columns(tmp_path / "documents.parquet", "doc_id")["doc_id"][1])


def test_selecting_rows_keeps_columns_together():
    table = {"a": np.array([1, 2, 3]), "b": np.array(["x", "y", "z"])}
    chosen = select(table, table["a"] > 1)
    assert (chosen["a"].tolist(), chosen["b"].tolist()) == ([2, 3], ["y", "z"])
