"""Tables carry what their columns mean and what made them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepseemoe.runtime.tables import (
    Column,
    TableWriter,
    read_manifest,
    read_table,
    write_table,
)

COLUMNS = (
    Column("feature", pa.uint32(), "index", "Feature of the dictionary."),
    Column("density", pa.float32(), "share of tokens", "How often it fires."),
)


def test_a_table_keeps_meanings_units_and_manifest(tmp_path):
    path = tmp_path / "density.parquet"
    write_table(path, COLUMNS, {"feature": [0, 1], "density": [0.5, 0.25]}, {"seed": 3})
    field = pq.read_schema(path).field("density")
    assert field.metadata == {b"unit": b"share of tokens", b"meaning": b"How often it fires."}
    assert read_manifest(path) == {"seed": 3}
    assert read_table(path, ["density"]).column_names == ["density"]


def test_rows_and_columns_give_the_same_bytes(tmp_path):
    write_table(tmp_path / "a", COLUMNS, {"feature": [0], "density": [0.5]}, {})
    write_table(tmp_path / "b", COLUMNS, [{"density": 0.5, "feature": 0}], {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_undocumented_column_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"\['densty', 'density'\]|\['density', 'densty'\]"):
        write_table(tmp_path / "t", COLUMNS, {"feature": [0], "densty": [0.5]}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_table_written_in_parts_is_the_whole_table_in_row_groups(tmp_path):
    with TableWriter(tmp_path / "t", COLUMNS, {"seed": 3}) as table:
        table.write({"feature": [0, 1], "density": [0.5, 0.25]})
        table.write({"feature": [], "density": []})
        table.write({"feature": [7], "density": [1.0]})
        assert not (tmp_path / "t").exists()
    assert table.n_rows == 3
    assert pq.ParquetFile(tmp_path / "t").num_row_groups == 2
    assert read_manifest(tmp_path / "t") == {"seed": 3}
    whole = {"feature": [0, 1, 7], "density": [0.5, 0.25, 1.0]}
    write_table(tmp_path / "whole", COLUMNS, whole, {"seed": 3})
    assert read_table(tmp_path / "t").equals(read_table(tmp_path / "whole"), check_metadata=True)


def test_a_table_written_in_parts_is_there_only_when_all_parts_are(tmp_path):
    def write():
        with TableWriter(tmp_path / "t", COLUMNS, {}) as table:
            table.write({"feature": [0], "density": [0.5]})
            table.write({"feature": [0]})

    with pytest.raises(ValueError, match="density"):
        write()
    assert not (tmp_path / "t").exists()


def test_a_table_without_rows_still_says_its_columns(tmp_path):
    with TableWriter(tmp_path / "t", COLUMNS, {}):
        pass
    assert read_table(tmp_path / "t").column_names == ["feature", "density"]
