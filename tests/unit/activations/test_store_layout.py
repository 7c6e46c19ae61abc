"""Shard files are those that zarr writes, byte for byte."""

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from store_bytes import files

from deepseemoe.activations.layout import ArraySpec, create_array, create_group
from deepseemoe.activations.shard_format import (
    decode_index,
    encode_index,
    shard_path,
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


@pytest.mark.parametrize("bit", [0, 77, 250])
def test_one_flipped_bit_of_an_index_is_noticed(bit):
    index = bytearray(encode_index(np.array([[0, 20], [20, 20]], "<u8")))
    assert np.array_equal(decode_index(bytes(index)), [[0, 20], [20, 20]])
    index[bit // 8] ^= 1 << bit % 8
    assert decode_index(bytes(index)) is None
