"""Checkpoints of several ranks: whole or not there, and read by any number of ranks."""

import pytest
import torch
from sharded_cases import cut

from deepseemoe.dictionary.layout import parts_of
from deepseemoe.dictionary.shard_files import find, read_share, write_shards
from deepseemoe.dictionary.shards import Shard
from deepseemoe.runtime.checkpoint_paths import shards_path
from deepseemoe.runtime.checkpoints import write_checkpoint


class Waiting:
    """Ranks that write one after the other."""

    def __init__(self, rank, n_ranks):
        self.rank, self.n_ranks = rank, n_ranks

    def wait(self):
        pass


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 4), (4, 2), (2, 1), (3, 3)])
def test_any_number_of_ranks_reads_the_rows_that_any_other_wrote(before, after, tmp_path):
    whole = parts_of("transcoder", n_layers=2, d_dict=23, prefixes=(0.4,))
    sizes = {"rows": (12,), "vector": tuple(part.n_features for part in whole), "all": None}
    tensors = {"rows": torch.randn(12, 3), "vector": torch.arange(23), "all": torch.randn(5)}
    path = tmp_path / "window.checkpoint"
    for rank in reversed(range(before)):  # rank 0 names the files of all
        mine = cut(tensors.values(), sizes.values(), Shard(whole, rank, before))
        state = dict(zip(sizes, mine, strict=True))
        ranks = Waiting(rank, before)
        write_shards(path, ranks, run="x", step=5, tensors=state, log={"rank": rank})
    found = find(path, run="x")
    assert find(path, run="other") is None
    for rank in range(after):
        shard = Shard(whole, rank, after)
        read = read_share(found, shard, sizes)
        assert (read.step, read.log) == (5, {"rank": 0})
        expected = cut(tensors.values(), sizes.values(), shard)
        for name, tensor in zip(sizes, expected, strict=True):
            assert torch.equal(read.tensors[name], tensor)


def test_files_without_an_index_do_not_count(tmp_path):
    path = tmp_path / "window.checkpoint"
    state = {"run": "x", "tensors": {"a": torch.zeros(1)}, "log": {}}
    write_shards(path, Waiting(1, 2), step=3, **state)
    assert find(path, run="x") is None
    write_shards(path, Waiting(0, 2), step=3, **state)
    assert find(path, run="x").step == 3
    write_shards(path, Waiting(1, 2), step=6, **state)
    assert find(path, run="x").step == 3
    write_shards(path, Waiting(0, 2), step=6, **state)
    assert sorted(file.name for file in shards_path(path).iterdir()) == [
        "000000006-0-of-2.safetensors", "000000006-1-of-2.safetensors", "index.json",
    ]  # fmt: skip


def flipped(path):
    """Yield once for each bit of a file, with that one turned."""
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        spoilt = bytearray(whole)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        yield bit
    path.write_bytes(whole)


def test_every_flipped_bit_of_a_checkpoint_is_told_before_it_passes_for_another(tmp_path):
    path = tmp_path / "window.checkpoint"
    write_checkpoint(path, run="x", step=40, tensors={"a": torch.zeros(2)}, log={"loss": 0.5})
    assert find(path, run="x").step == 40
    for bit in flipped(path):
        with pytest.raises(ValueError, match="window.checkpoint: not a readable .* delete it"):
            assert find(path, run="x"), bit


def test_every_flipped_bit_of_an_index_of_shards_is_told(tmp_path):
    path = tmp_path / "window.checkpoint"
    write_shards(path, Waiting(0, 1), run="x", step=40, tensors={"a": torch.zeros(2)}, log={})
    found = find(path, run="x")
    for bit in flipped(shards_path(path) / "index.json"):
        try:
            again, told = find(path, run="x"), "nothing"
        except ValueError as error:
            again, told = found, str(error).partition("-shards: ")[2][:25]
        assert again == found, bit  # the bit was of white space
        assert told in ("nothing", "not a readable checkpoint"), bit


def test_a_damaged_file_is_told_of(tmp_path):
    path = tmp_path / "window.checkpoint"
    write_shards(path, Waiting(0, 1), run="x", step=3, tensors={"a": torch.zeros(4)}, log={})
    (file,) = shards_path(path).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    shard = Shard(parts_of("crosscoder", n_layers=1, d_dict=4))
    with pytest.raises(ValueError, match="0-of-1.safetensors: not a readable checkpoint"):
        read_share(find(path, run="x"), shard, {"a": (4,)})
