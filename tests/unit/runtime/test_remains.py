"""Files in the place of folders make way, and damaged notes of Snakemake go."""

import pytest

from deepseemoe.runtime.remains import drop_damaged_records, make_way


def test_a_file_where_a_folder_of_outputs_belongs_is_removed_and_nothing_else(tmp_path):
    folder = tmp_path / "results/small"
    (folder / "dictionary").mkdir(parents=True)
    odd, kept, link = folder / "dictionary/L00-L01", folder / "config.yaml", folder / "activations"
    odd.write_text("no folder")
    kept.write_text("name: small")
    link.symlink_to(tmp_path / "not mounted")
    make_way(folder, [odd / "weights.safetensors", kept, link / "test/00000.zarr"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "activations",
        "config.yaml",
        "dictionary",
    ]
    assert not odd.exists()


def test_what_stands_above_the_run_is_left_alone(tmp_path):
    (tmp_path / "results").write_text("a file of the user's")
    make_way(tmp_path / "results/small", [tmp_path / "results/small/config.yaml"])
    assert (tmp_path / "results").is_file()


def test_notes_that_are_no_text_are_dropped(tmp_path):
    notes = tmp_path / "metadata/@deep"
    notes.mkdir(parents=True)
    (notes / "half").write_text('{"rule": ')
    (notes / "flipped").write_bytes(b'{"rule": "map_r\xe5ads"}')
    assert drop_damaged_records(tmp_path) == [notes / "flipped"]
    assert [path.name for path in notes.iterdir()] == ["half"]
    assert drop_damaged_records(tmp_path / "nowhere") == []
    with pytest.raises(ValueError, match="half: no folder, where Snakemake keeps its notes"):
        drop_damaged_records(notes / "half")
