"""Feature shards: what is written is read, by plain zarr too, and misuse is refused."""

import numpy as np
import pytest
import zarr
from feature_world import make_text, token_arrays, write_shards
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from deepseemoe.features.store import FeatureShard, FeatureWriter
from deepseemoe.features.text import FeatureText


@settings(max_examples=15, deadline=None)
@given(edges=st.lists(st.integers(0, 256), max_size=4))
def test_runs_of_any_length_give_the_matrix_that_was_written(tmp_path_factory, edges):
    text = make_text(n_sequences=4, n_features=5)
    path = tmp_path_factory.mktemp("shard") / "x.zarr"
    writer = FeatureWriter(path, d_dict=5, manifest={"a": 1})
    edges = sorted({0, *edges, text.n_tokens})
    for start, stop in zip(edges, edges[1:], strict=False):
        writer.append(text.matrix[start:stop], token_arrays(text, slice(start, stop)))
    shard = FeatureShard.open(path)
    assert (shard.matrix() != text.matrix).nnz == 0
    assert shard.offsets.dtype == np.uint64
    assert shard.offsets[-1] == text.matrix.nnz
    assert (shard.doc_ids == text.doc_ids).all()
    assert (shard.positions == text.positions).all()
    assert (shard.token_ids == text.token_ids).all()
    assert (shard.is_valid == text.is_valid).all()
    assert (shard.n_tokens, shard.d_dict, shard.manifest) == (text.n_tokens, 5, {"a": 1})


def test_plain_zarr_reads_a_shard_as_the_contract_names_it(tmp_path):
    text = make_text()
    group = zarr.open_group(write_shards(tmp_path, text, n_shards=1)[0], mode="r")
    parts = group["activation"][:], group["feature"][:].astype(int), group["offsets"][:].astype(int)
    assert (sparse.csr_array(parts, shape=text.matrix.shape) != text.matrix).nnz == 0
    assert (group.attrs["format"], group.attrs["kind"]) == (1, "features")
    assert group["is_valid"].dtype == np.uint8


@pytest.mark.parametrize(("d_dict", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_feature_numbers_take_the_smallest_type_that_holds_them(tmp_path, d_dict, dtype):
    matrix = sparse.csr_array(([1.0], ([0], [d_dict - 1])), shape=(1, d_dict))
    tokens = {name: np.ones(1) for name in ("token_id", "doc_id", "position", "is_valid")}
    FeatureWriter(tmp_path / "x.zarr", d_dict=d_dict, manifest={}).append(matrix, tokens)
    features = FeatureShard.open(tmp_path / "x.zarr").features
    assert features.dtype == dtype
    assert features.tolist() == [d_dict - 1]


def test_a_shard_on_which_nothing_fires_is_whole(tmp_path):
    matrix = sparse.csr_array((20, 5))
    tokens = {name: np.zeros(20) for name in ("token_id", "doc_id", "position", "is_valid")}
    FeatureWriter(tmp_path / "x.zarr", d_dict=5, manifest={}).append(matrix, tokens)
    shard = FeatureShard.open(tmp_path / "x.zarr")
    assert shard.offsets.tolist() == [0] * 21
    assert shard.matrix().nnz == 0
    assert not shard.is_valid.any()


def test_the_same_shard_has_the_same_bytes(tmp_path):
    text = make_text()
    one, two = (write_shards(tmp_path / name, text)[1] for name in "ab")
    files = [path.relative_to(one) for path in sorted(one.rglob("*")) if path.is_file()]
    assert len(files) > 7
    assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)


def test_writing_leaves_the_callers_matrix_alone(tmp_path):
    matrix = sparse.csr_array(([1.0, 0.0, 2.0], [2, 1, 0], [0, 3]), shape=(1, 3))
    tokens = {name: np.ones(1) for name in ("token_id", "doc_id", "position", "is_valid")}
    FeatureWriter(tmp_path / "x.zarr", d_dict=3, manifest={}).append(matrix, tokens)
    assert matrix.indices.tolist() == [2, 1, 0]
    assert FeatureShard.open(tmp_path / "x.zarr").features.tolist() == [0, 2]


def test_activations_on_a_token_that_is_not_valid_are_refused(tmp_path):
    text = make_text()
    tokens = token_arrays(text) | {"is_valid": np.zeros(text.n_tokens, np.uint8)}
    writer = FeatureWriter(tmp_path / "x.zarr", d_dict=text.d_dict, manifest={})
    with pytest.raises(ValueError, match="not valid"):
        writer.append(text.matrix, tokens)


def test_token_arrays_of_another_length_are_refused(tmp_path):
    text = make_text()
    writer = FeatureWriter(tmp_path / "x.zarr", d_dict=text.d_dict, manifest={})
    with pytest.raises(ValueError, match="equally many"):
        writer.append(text.matrix, token_arrays(text, slice(1, None)))


def test_other_stores_and_formats_are_refused_in_one_line(tmp_path):
    zarr.create_group(tmp_path / "a.zarr", attributes={"kind": "activations", "format": 1})
    zarr.create_group(tmp_path / "b.zarr", attributes={"kind": "features", "format": 2})
    for name, found in (("a", "activations"), ("b", "format 2"), ("c", "no zarr group")):
        with pytest.raises(ValueError, match=found) as error:
            FeatureShard.open(tmp_path / f"{name}.zarr")
        assert "\n" not in str(error.value)


def test_shards_join_to_the_text_they_were_cut_from(tmp_path):
    text = make_text()
    joined = FeatureText.read(write_shards(tmp_path, text, n_shards=3))
    assert (joined.matrix != text.matrix).nnz == 0
    assert (joined.doc_ids == text.doc_ids).all()
    assert (joined.segments == text.segments).all()


def test_shards_of_two_dictionaries_are_refused(tmp_path):
    paths = [
        write_shards(tmp_path / str(n), make_text(n_features=n), n_shards=1)[0] for n in (4, 5)
    ]
    with pytest.raises(ValueError, match=r"d_dict \[4, 5\]"):
        FeatureText.read(paths)


def test_a_missing_or_damaged_chunk_is_named_and_never_read_as_zeros(tmp_path):
    path = write_shards(tmp_path, make_text(), n_shards=1)[0]
    chunk = path / "activation" / "c" / "0"
    damaged = bytearray(chunk.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    chunk.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"00000\.zarr: activation: damaged"):
        FeatureShard.open(path).matrix()
    chunk.unlink()
    with pytest.raises(ValueError, match="activation: parts of it are missing"):
        FeatureShard.open(path).matrix()
