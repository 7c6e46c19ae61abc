"""Reading arrays: every access path gives what was written, and damage is named, never returned."""

import resource

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

from deepseemoe.activations.bfloat16 import narrow, widen
from deepseemoe.activations.layout import ArraySpec, create_array, create_group
from deepseemoe.activations.reader import MappedArray
from deepseemoe.activations.shard_format import encode_index, shard_path, write_shard

SHARD, CHUNK, WIDTH = 16, 4, 3


def write(folder, rows, *, shard_rows=SHARD, chunk_rows=CHUNK, view_dtype=None):
    """Write rows with our own writer and return the array's folder."""
    create_group(folder, {})
    width = rows.shape[1] if rows.ndim == 2 else None
    spec = ArraySpec("x", rows.dtype.name, width, view_dtype)
    sizes = {"shard_rows": shard_rows, "chunk_rows": chunk_rows}
    left_out = [
        shard
        for shard, start in enumerate(range(0, len(rows), shard_rows))
        if not write_shard(folder / "x", shard, rows[start : start + shard_rows], **sizes)
    ]
    create_array(folder, spec, n_rows=len(rows), attributes={"empty_shards": left_out}, **sizes)
    return folder / "x"


def planted(n_rows, width=WIDTH, dtype=np.uint16):
    shape = (n_rows, width) if width else (n_rows,)
    return np.arange(1, np.prod(shape) + 1).reshape(shape).astype(dtype)


@pytest.fixture
def rows():
    return planted(53)


@pytest.fixture
def folder(tmp_path, rows):
    return write(tmp_path, rows)


def opened(folder):
    return MappedArray(folder, "store.zarr: x")


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_rows_of_any_size_come_back(tmp_path_factory, data):
    chunk = data.draw(st.integers(1, 6))
    n_rows = data.draw(st.integers(1, 60))
    width = data.draw(st.sampled_from((None, 1, 3)))
    dtype = data.draw(st.sampled_from((np.uint8, np.uint16, np.uint32, np.float16, np.float32)))
    rows = planted(n_rows, width, dtype)
    rows[: data.draw(st.integers(0, n_rows))] = 0
    shard = chunk * data.draw(st.integers(1, 4))
    array = opened(write(tmp_path_factory.mktemp("any"), rows, shard_rows=shard, chunk_rows=chunk))
    start = data.draw(st.integers(0, n_rows))
    stop = data.draw(st.integers(start, n_rows))
    wanted = data.draw(st.lists(st.integers(0, n_rows - 1)))
    assert array.shape == rows.shape
    assert array.dtype == rows.dtype
    assert np.array_equal(array.read(start, stop), rows[start:stop])
    assert np.array_equal(array.gather(wanted), rows[wanted])
    assert np.array_equal(array.whole(), rows)
    assert np.array_equal(np.concatenate(list(array.chunk_views())), rows)
    assert np.array_equal(array.floats(start, stop), rows[start:stop].astype(np.float32))


def test_chunks_are_read_only_views_of_the_file_and_reads_are_copies(folder):
    array = opened(folder)
    assert not array.chunk(1).flags.owndata
    assert not array.chunk(1).flags.writeable
    assert array.chunk(1) is array.chunk(1)
    mine = array.read(4, 6)
    mine[:] = 0
    assert array.read(4, 6).all()


def test_the_last_chunk_is_short(folder, rows):
    array = opened(folder)
    assert array.n_chunks == 14
    assert np.array_equal(array.chunk(13), rows[52:])


def test_reads_across_shards_need_no_first_touch(folder, rows):
    array = opened(folder)
    array.prefetch(range(array.n_chunks))
    assert np.array_equal(array.read(3, 50), rows[3:50])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (5, 4), (0, 54), (53, 54), (60, 61)])
def test_rows_that_are_not_there_are_refused(folder, start, stop):
    with pytest.raises(ValueError, match=rf"store.zarr: x: rows {start}:{stop} of 53"):
        opened(folder).read(start, stop)


@pytest.mark.parametrize("wanted", [[-1], [53], [0, 99]])
def test_gathering_rows_that_are_not_there_is_refused(folder, wanted):
    with pytest.raises(ValueError, match=r"store.zarr: x: rows .* of 53"):
        opened(folder).gather(wanted)


def test_a_chunk_that_is_not_there_is_refused(folder):
    with pytest.raises(ValueError, match="chunk 14 of 14"):
        opened(folder).chunk(14)


def test_bfloat16_bits_are_widened_exactly(tmp_path):
    values = np.array([[0.0, -0.0, 1.0], [-3.5, 1e-38, 3e38]], np.float32)
    array = opened(write(tmp_path, narrow(values), view_dtype="bfloat16"))
    assert np.array_equal(array.floats(0, 2), widen(narrow(values)))
    assert np.allclose(array.floats(0, 2), values, rtol=2**-8)


# What zarr-python writes ------------------------------------------------------------------


def by_zarr(folder, rows, *, codecs=None, index_location="end", **kept):
    """Write rows with zarr-python, in inner chunks of CHUNK rows of shards of SHARD."""
    tail = rows.shape[1:]
    sharding = ShardingCodec(
        chunk_shape=(CHUNK, *tail),
        codecs=codecs or [BytesCodec(), Crc32cCodec()],
        index_location=index_location,
    )
    array = zarr.create_array(
        folder,
        shape=rows.shape,
        dtype=rows.dtype,
        chunks=(SHARD, *tail),
        serializer=sharding,
        compressors=None,
        filters=None,
        **{"fill_value": 0, **kept},
    )
    array[:] = rows
    return folder


@pytest.mark.parametrize("index_location", ["start", "end"])
def test_zarrs_own_files_are_mapped(tmp_path, rows, index_location):
    rows[4:12] = 0  # two chunks that zarr leaves out
    rows[16:32] = 0  # a whole shard
    array = opened(by_zarr(tmp_path / "x", rows, index_location=index_location))
    assert array.is_mapped
    assert np.array_equal(array.whole(), rows)
    assert np.array_equal(array.gather([8, 0, 52]), rows[[8, 0, 52]])


def test_chunks_may_lie_in_any_order(folder, rows):
    path = shard_path(folder, 0, 2)
    n_bytes = CHUNK * WIDTH * 2 + 4
    data = path.read_bytes()
    chunks = [data[i * n_bytes : (i + 1) * n_bytes] for i in range(4)]
    extents = np.array([[i * n_bytes, n_bytes] for i in (2, 0, 3, 1)], "<u8")
    path.write_bytes(b"".join(chunks[i] for i in (1, 3, 0, 2)) + encode_index(extents))
    assert np.array_equal(zarr.open_array(folder)[:], rows)
    assert np.array_equal(opened(folder).whole(), rows)


def test_another_fill_value_is_kept(tmp_path, rows):
    rows[4:8] = 7
    array = opened(by_zarr(tmp_path / "x", rows, fill_value=7))
    assert array.is_mapped
    assert np.array_equal(array.whole(), rows)


def test_compressed_arrays_are_read_through_zarr(tmp_path, rows):
    array = opened(by_zarr(tmp_path / "x", rows, codecs=[BytesCodec(), ZstdCodec()]))
    assert not array.is_mapped
    assert array.chunk_tokens == CHUNK
    assert np.array_equal(array.read(3, 40), rows[3:40])
    assert np.array_equal(array.gather([40, 3, 3]), rows[[40, 3, 3]])
    assert np.array_equal(array.floats(1, 2), rows[1:2])


def test_arrays_cut_along_the_width_are_read_through_zarr(tmp_path, rows):
    array = zarr.create_array(
        tmp_path / "x", shape=rows.shape, dtype=rows.dtype, chunks=(4, 1), shards=(16, 3)
    )
    array[:] = rows
    assert np.array_equal(opened(tmp_path / "x").whole(), rows)


def test_damage_of_a_compressed_array_names_the_rows(tmp_path, rows):
    folder = by_zarr(tmp_path / "x", rows, codecs=[BytesCodec(), ZstdCodec(), Crc32cCodec()])
    flip(shard_path(folder, 0, 2), 3)
    with pytest.raises(ValueError, match=r"store.zarr: x: rows 0 to 3 cannot be decoded"):
        opened(folder).read(0, 2)


# Damage -----------------------------------------------------------------------------------


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("chunk", [0, 2, 3])
def test_a_flipped_bit_is_named_with_its_chunk_and_rows(folder, chunk):
    flip(shard_path(folder, 1, 2), chunk * (CHUNK * WIDTH * 2 + 4) + 5)
    array = opened(folder)
    number, first = 4 + chunk, 16 + 4 * chunk
    expected = rf"store.zarr: x: chunk {number} \(rows {first} to {first + 3}\) is damaged"
    for access in (lambda: array.read(first + 1, first + 2), array.whole):
        with pytest.raises(ValueError, match=expected):
            access()


def test_chunks_beside_a_damaged_one_are_still_read(folder, rows):
    flip(shard_path(folder, 1, 2), 5)
    assert np.array_equal(opened(folder).read(20, 40), rows[20:40])


@pytest.mark.parametrize("n_left", [0, 1, 30, 100])
def test_a_file_that_was_cut_off_is_named(folder, n_left):
    path = shard_path(folder, 2, 2)
    path.write_bytes(path.read_bytes()[:n_left])
    with pytest.raises(ValueError, match=r"store.zarr: x: rows 32 to 47 cannot be read: .*run"):
        opened(folder).read(40, 41)


def test_an_index_that_points_outside_of_its_file_is_refused(folder):
    extents = np.array([[i * 10**9, 28] for i in range(4)], "<u8")
    shard_path(folder, 0, 2).write_bytes(b"x" * 112 + encode_index(extents))
    with pytest.raises(ValueError, match=r"rows 0 to 15 cannot be read: .* points outside"):
        opened(folder).read(0, 1)


def test_a_missing_file_is_named_and_not_taken_for_zeros(folder):
    shard_path(folder, 3, 2).unlink()
    with pytest.raises(ValueError, match=r"store.zarr: x: rows 48 to 52 are missing, no file"):
        opened(folder).whole()


def test_a_shard_that_held_only_zeros_is_not_missing(tmp_path, rows):
    rows[16:32] = 0
    assert np.array_equal(opened(write(tmp_path, rows)).whole(), rows)


def test_more_files_than_the_soft_limit_can_be_open(tmp_path):
    rows = planted(4 * 60)
    array = opened(write(tmp_path, rows, shard_rows=4, chunk_rows=4))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(45, soft), hard))
    try:
        assert np.array_equal(array.whole(), rows)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
