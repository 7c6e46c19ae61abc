"""Files appear whole or not at all."""

import pytest

from deepseemoe.runtime.files import growing, read_json, write_json


def test_a_file_appears_only_where_the_block_succeeds(tmp_path):
    target = tmp_path / "deep" / "table.bin"

    def die_half_way():
        with growing(target) as partial:
            partial.write_bytes(b"half")
            raise RuntimeError

    pytest.raises(RuntimeError, die_half_way)
    assert not target.exists()
    with growing(target) as partial:
        partial.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"


def test_a_folder_replaces_the_one_before_and_what_a_killed_attempt_left(tmp_path):
    target = tmp_path / "store.zarr"
    (tmp_path / "store.zarr.partial").mkdir()
    (tmp_path / "store.zarr.partial" / "left-over").touch()
    for name in ("first", "second"):
        with growing(target) as partial:
            partial.mkdir()
            (partial / name).touch()
    assert [path.name for path in target.iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["store.zarr"]


def test_json_reads_back_and_refuses_nan(tmp_path):
    write_json(tmp_path / "a.json", {"é": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"é": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"fvu": float("nan")})
    assert not (tmp_path / "b.json").exists()
