"""Shard files are those that zarr writes, byte for byte."""

import os

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from store_bytes import files
from zarr.codecs import BytesCodec, Crc32cCodec

from deepseemoe.activations.crc32c import checksum, checksums
from deepseemoe.activations.layout import ArraySpec, create_array, create_group
from deepseemoe.activations.shard_format import (
    decode_index,
    encode_index,
    shard_path,
    write_pieces,
    write_shard,
)

DTYPES = ("uint8", "uint16", "uint32", "float16", "float32")


def write_ours(folder, spec, rows, shard_rows, chunk_rows):
    create_group(folder, {"made": "by us"})
    create_array(folder, spec, n_rows=len(rows), shard_rows=shard_rows, chunk_rows=chunk_rows)
    for shard, start in enumerate(range(0, len(rows), shard_rows)):
        part = rows[start : start + shard_rows]
        write_shard(folder / spec.name, shard, part, shard_rows=shard_rows, chunk_rows=chunk_rows)


def write_zarr(folder, spec, rows, shard_rows, chunk_rows):
    create_group(folder, {"made": "by us"})
    create_array(folder, spec, n_rows=len(rows), shard_rows=shard_rows, chunk_rows=chunk_rows)
    zarr.open_array(folder / spec.name)[:] = rows


def planted(shape, dtype, zero_chunks, chunk_rows):
    """Return rows of which some chunks are all zero, and some single rows too."""
    rng = np.random.default_rng(len(shape) * 1000 + shape[0])
    rows = rng.integers(1, 100, shape).astype(dtype)
    rows[:: max(shape[0] // 3, 1)] = 0
    for chunk in zero_chunks:
        rows[chunk * chunk_rows : (chunk + 1) * chunk_rows] = 0
    return rows


@settings(max_examples=60, deadline=None)
@given(
    n_rows=st.integers(1, 70),
    chunk_rows=st.integers(1, 9),
    chunks_per_shard=st.integers(1, 5),
    width=st.one_of(st.none(), st.integers(1, 5)),
    dtype=st.sampled_from(DTYPES),
    zero_chunks=st.sets(st.integers(0, 12)),
)
def test_files_are_byte_identical_to_zarrs_own(
    tmp_path_factory, n_rows, chunk_rows, chunks_per_shard, width, dtype, zero_chunks
):
    spec = ArraySpec("resid_post/L00", dtype, width)
    rows = planted((n_rows, *spec.row_shape), dtype, zero_chunks, chunk_rows)
    folder = tmp_path_factory.mktemp("identity")
    for name, write in (("ours", write_ours), ("zarrs", write_zarr)):
        write(folder / name, spec, rows, chunk_rows * chunks_per_shard, chunk_rows)
    assert files(folder / "ours") == files(folder / "zarrs")
    assert np.array_equal(zarr.open_array(folder / "ours" / spec.name)[:], rows)


def test_a_shard_of_zeros_has_no_file_as_with_zarr(tmp_path):
    rows = np.zeros((8, 3), np.uint16)
    spec = ArraySpec("x", "uint16", 3)
    create_group(tmp_path, {})
    create_array(tmp_path, spec, n_rows=8, shard_rows=8, chunk_rows=4)
    assert not write_shard(tmp_path / "x", 0, rows, shard_rows=8, chunk_rows=4)
    assert not shard_path(tmp_path / "x", 0, 2).exists()
    assert np.array_equal(zarr.open_array(tmp_path / "x")[:], rows)


def test_minus_zero_is_not_left_out(tmp_path):
    rows = np.full((4, 2), -0.0, np.float32)
    for name, write in (("ours", write_ours), ("zarrs", write_zarr)):
        write(tmp_path / name, ArraySpec("x", "float32", 2), rows, 4, 2)
    assert files(tmp_path / "ours") == files(tmp_path / "zarrs")
    assert np.signbit(zarr.open_array(tmp_path / "ours" / "x")[:]).all()


def test_metadata_names_the_codecs_that_can_be_mapped(tmp_path):
    write_ours(tmp_path, ArraySpec("x", "uint16", 2, "bfloat16"), np.ones((4, 2), np.uint16), 4, 2)
    array = zarr.open_array(tmp_path / "x")
    (sharding,) = array.metadata.to_dict()["codecs"]
    inner = [codec["name"] for codec in sharding["configuration"]["codecs"]]
    assert inner == ["bytes", "crc32c"]
    assert array.attrs["view_dtype"] == "bfloat16"


def test_metadata_is_byte_identical_to_zarrs_own(tmp_path):
    specs = [ArraySpec("resid_post/L00", "uint16", 6, "bfloat16"), ArraySpec("order", "uint32")]
    attributes = {"n_valid": 3, "norm_quantiles": {"0.5": 1 / 3}, "empty_shards": [1]}
    for name in ("ours", "zarrs"):
        create_group(tmp_path / name, {"made": "by us"})
    for spec in specs:
        sizes = {"n_rows": 10, "shard_rows": 8, "chunk_rows": 4}
        create_array(tmp_path / "ours", spec, attributes=attributes, **sizes)
        view = {"view_dtype": spec.view_dtype} if spec.view_dtype else {}
        zarr.open_group(tmp_path / "zarrs").create_array(
            spec.name,
            shape=(10, *spec.row_shape),
            shards=(8, *spec.row_shape),
            chunks=(4, *spec.row_shape),
            dtype=spec.dtype,
            filters=None,
            serializer=BytesCodec(),
            compressors=[Crc32cCodec()],
            fill_value=0,
            attributes={**view, **attributes},
        )
    assert files(tmp_path / "ours") == files(tmp_path / "zarrs")


def test_a_shard_in_pieces_of_whole_chunks_is_the_same_file(tmp_path):
    rows = planted((90, 3), "uint16", zero_chunks=(2, 5), chunk_rows=8)
    sizes = {"shard_rows": 96, "chunk_rows": 8}
    write_shard(tmp_path / "whole", 0, rows, **sizes)
    raw = rows.view(np.uint8)
    for n_rows in (8, 16, 40, 88):
        path = shard_path(tmp_path / str(n_rows), 0, 2)
        write_pieces(path, (raw[at : at + n_rows] for at in range(0, 90, n_rows)), **sizes)
        assert path.read_bytes() == shard_path(tmp_path / "whole", 0, 2).read_bytes()


def test_a_shard_is_whole_where_the_system_writes_only_part_of_what_it_is_given(
    tmp_path, monkeypatch
):
    rows = planted((90, 3), "uint16", zero_chunks=(), chunk_rows=8)
    sizes = {"shard_rows": 96, "chunk_rows": 8}
    write_shard(tmp_path / "whole", 0, rows, **sizes)
    monkeypatch.setattr("os.writev", lambda file, parts: os.write(file, b"".join(parts)[:33]))
    write_shard(tmp_path / "in-parts", 0, rows, **sizes)
    assert files(tmp_path / "whole") == files(tmp_path / "in-parts")


@pytest.mark.parametrize("n_bytes", [1, 100, 16_384, 70_001])
@pytest.mark.parametrize("is_hidden", [False, True])
def test_checksums_are_those_of_crc32c(monkeypatch, n_bytes, is_hidden):
    if is_hidden:
        monkeypatch.setattr("deepseemoe.activations.crc32c._unlocked", lambda: None)
    chunks = np.random.default_rng(0).integers(0, 256, (3, n_bytes), np.uint8)
    assert checksums(chunks).tobytes() == b"".join(checksum(chunk.tobytes()) for chunk in chunks)


@pytest.mark.parametrize("bit", [0, 77, 250])
def test_one_flipped_bit_of_an_index_is_noticed(bit):
    index = bytearray(encode_index(np.array([[0, 20], [20, 20]], "<u8")))
    assert np.array_equal(decode_index(bytes(index)), [[0, 20], [20, 20]])
    index[bit // 8] ^= 1 << bit % 8
    assert decode_index(bytes(index)) is None
