"""A checkpoint comes back as it was, for its own run only."""

import pytest
import torch

from deepseemoe.dictionary.shard_files import INDEX, find
from deepseemoe.runtime.checkpoint_paths import checkpoint_path, shards_path
from deepseemoe.runtime.checkpoints import read_checkpoint, write_checkpoint


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    path = checkpoint_path(tmp_path / "model")
    tensors, log = {"w": torch.randn(3, 4).T}, {"rows": [{"loss": 0.1 + 0.2}]}
    write_checkpoint(path, run="a", step=7, tensors=tensors, log=log)
    step, read, read_log = read_checkpoint(path, run="a")
    assert (step, read_log) == (7, log)
    assert torch.equal(read["w"], tensors["w"])


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path):
    path = tmp_path / "c"
    assert read_checkpoint(path, run="a") is None
    write_checkpoint(path, run="a", step=1, tensors={}, log={})
    assert read_checkpoint(path, run="b") is None


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "c"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="c: not a readable checkpoint .* delete it"):
        read_checkpoint(path, run="a")


def test_a_folder_in_the_place_of_a_checkpoint_is_named(tmp_path):
    (tmp_path / "c").mkdir()
    for read in (lambda path: read_checkpoint(path, run="a"), lambda path: find(path, run="a")):
        with pytest.raises(ValueError, match="c: not a readable checkpoint .*no file.; delete it"):
            read(tmp_path / "c")


@pytest.mark.parametrize("text", ["[]", "{", '{"run": "a", "step": 1}', '{"run": "a"}'])
def test_a_damaged_list_of_shards_is_named(tmp_path, text):
    folder = shards_path(tmp_path / "c")
    folder.mkdir()
    (folder / INDEX).write_text(text)
    with pytest.raises(ValueError, match=f"^{folder}: not a readable checkpoint .* delete it$"):
        find(tmp_path / "c", run="a")
