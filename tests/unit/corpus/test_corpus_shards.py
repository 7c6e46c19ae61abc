"""Token shards on disk."""

import shutil

import numpy as np
import pytest
import zarr

from deepseemoe.corpus.shards import TokenShard, read_shard, write_shard


@pytest.fixture
def tokens() -> TokenShard:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2**32, (5, 8), dtype=np.uint32)
    return TokenShard(
        ids, np.zeros((5, 8), np.uint32), np.tile(np.arange(8, dtype=np.uint32), (5, 1))
    )


def write(path, tokens):
    write_shard(path, tokens, split="test", shard=3, manifest={"seed": 1})


def test_a_shard_comes_back_as_it_was_written(tmp_path, tokens):
    write(tmp_path / "a.zarr", tokens)
    found = read_shard(tmp_path / "a.zarr")
    for written, read in zip(tokens, found, strict=True):
        assert read.dtype == np.uint32
        assert np.array_equal(written, read)


def test_any_zarr_reader_finds_arrays_and_attributes(tmp_path, tokens):
    write(tmp_path / "a.zarr", tokens)
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert dict(group.attrs) == {
        "format": 1,
        "kind": "corpus",
        "split": "test",
        "shard": 3,
        "manifest": {"seed": 1},
    }
    assert sorted(group.array_keys()) == ["doc_id", "position", "token_id"]


def test_equal_tokens_give_equal_bytes(tmp_path, tokens):
    for name in ("a.zarr", "b.zarr"):
        write(tmp_path / name, tokens)
    files = [p.relative_to(tmp_path / "a.zarr") for p in (tmp_path / "a.zarr").rglob("*")]
    assert any(file.name == "zarr.json" for file in files)
    for file in files:
        if (tmp_path / "a.zarr" / file).is_file():
            assert (tmp_path / "a.zarr" / file).read_bytes() == (
                tmp_path / "b.zarr" / file
            ).read_bytes()


def test_another_format_is_refused(tmp_path, tokens):
    write(tmp_path / "a.zarr", tokens)
    zarr.open_group(tmp_path / "a.zarr", mode="r+").attrs["format"] = 9
    with pytest.raises(
        ValueError, match="kind 'corpus' of format 9, expected 'corpus' of format 1"
    ):
        read_shard(tmp_path / "a.zarr")


def test_another_kind_is_refused(tmp_path):
    zarr.create_group(tmp_path / "a.zarr", attributes={"format": 1, "kind": "activations"})
    with pytest.raises(ValueError, match="kind 'activations' of format 1, expected 'corpus'"):
        read_shard(tmp_path / "a.zarr")


def test_nothing_there_is_an_error_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"none\.zarr: no token shard here; run pack_corpus"):
        read_shard(tmp_path / "none.zarr")


def test_a_missing_chunk_is_never_read_as_zeros(tmp_path, tokens):
    write(tmp_path / "a.zarr", tokens)
    shutil.rmtree(tmp_path / "a.zarr" / "doc_id" / "c")
    with pytest.raises(ValueError, match="parts of doc_id are missing"):
        read_shard(tmp_path / "a.zarr")


def test_a_damaged_chunk_is_named(tmp_path, tokens):
    write(tmp_path / "a.zarr", tokens)
    chunk = tmp_path / "a.zarr" / "token_id" / "c" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 0xFF
    chunk.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"a\.zarr: token_id is damaged"):
        read_shard(tmp_path / "a.zarr")
