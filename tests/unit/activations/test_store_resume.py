"""Several shards from one model: a killed attempt costs one shard, and no byte differs."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from store_bytes import files
from test_store_capture import CONFIG, SITES, HandSetModel

from deepseemoe.activations.capture import cache_activations
from deepseemoe.activations.resume import cache_into, cache_shards
from deepseemoe.corpus.shards import TokenShard, write_shard
from deepseemoe.runtime import attempts
from deepseemoe.runtime.attempts import RECORD, growing_folder

NAMES = ("00003", "00004", "00005")


class CountingModel(HandSetModel):
    """Counts its forward passes, and breaks off before one of them where told to."""

    def __init__(self, stop_at=None, routers=0.0):
        super().__init__()
        self.n_passes, self.stop_at, self.routers = 0, stop_at, routers

    def hidden_states(self, tokens):
        if self.n_passes == self.stop_at:
            raise InterruptedError("killed")
        self.n_passes += 1
        super().hidden_states(tokens)

    def router_weight(self, layer):
        return torch.full((5, 6), self.routers)


PASSES_PER_SHARD = 4  # 13 sequences, 4 a batch


def write_tokens(path, first_id):
    ids = (np.arange(130).reshape(-1, 10) + first_id) % 130
    positions = np.tile(np.arange(10), (13, 1))
    text = TokenShard(*(values.astype(np.uint32) for values in (ids, ids // 25, positions)))
    write_shard(path, text, split="train", shard=int(path.stem), manifest={})


@pytest.fixture
def tokens(tmp_path):
    paths = [tmp_path / "tokens" / f"{name}.zarr" for name in NAMES]
    for number, path in enumerate(paths):
        write_tokens(path, number)
    return paths


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "growing"


def cache(folder, tokens, model=None, **changes):
    """Return how many forward passes were made, having checked the stores that came out."""
    model = model or CountingModel()
    plan = {"config": CONFIG, "sites": SITES, "split": "train", "seed": 0, "manifest": {"run": "a"}}
    stores = cache_into(folder, model=model, tokens=tokens, **{**plan, **changes})
    assert stores == [folder / path.name for path in tokens]
    assert {path.name for path in folder.iterdir()} == {RECORD, *(path.name for path in tokens)}
    return model.n_passes


def alone(tokens, store, *, config=CONFIG, **changes):
    """Return the bytes of a store of one shard."""
    plan = {"sites": SITES, "split": "train", "seed": 0, "manifest": {"run": "a"}, **changes}
    files_of = {"tokens": tokens, "store": store, "shard": tokens.stem}
    cache_activations(config, model=CountingModel(), **files_of, **plan)
    return files(store)


def test_each_store_has_the_bytes_of_its_shard_alone(tmp_path, folder, tokens, caplog):
    caplog.set_level("INFO")
    assert cache(folder, tokens) == 3 * PASSES_PER_SHARD
    for path in tokens:
        assert files(folder / path.name) == alone(path, tmp_path / "alone" / path.name)
    assert "activations of train/00003 to 00005: 390 of 390 tokens" in caplog.text


def test_an_attempt_that_broke_off_costs_the_shard_it_was_at(tmp_path, folder, tokens):
    with pytest.raises(InterruptedError):
        cache(folder, tokens, CountingModel(stop_at=PASSES_PER_SHARD + 2))
    first = folder / tokens[0].name
    is_untouched = first.stat().st_ino, first.stat().st_mtime_ns
    assert cache(folder, tokens) == 2 * PASSES_PER_SHARD
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == is_untouched
    for path in tokens:
        assert files(folder / path.name) == alone(path, tmp_path / "alone" / path.name)
    assert cache(folder, tokens) == 0


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {paths!r}
import test_store_resume as test

class Dying(test.CountingModel):
    def hidden_states(self, tokens):
        if self.n_passes == 2 * test.PASSES_PER_SHARD + 2:
            os.kill(os.getpid(), signal.SIGKILL)
        super().hidden_states(tokens)

test.cache(Path({folder!r}), [Path(path) for path in {tokens!r}], Dying())
"""


def test_a_killed_process_costs_the_shard_it_was_at(tmp_path, folder, tokens):
    here = os.path.dirname(__file__)
    program = KILLED.format(
        paths=[here, *sys.path], folder=str(folder), tokens=[str(path) for path in tokens]
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (folder / f"{tokens[2].name}.partial").exists()
    assert cache(folder, tokens) == PASSES_PER_SHARD
    for path in tokens:
        assert files(folder / path.name) == alone(path, tmp_path / "alone" / path.name)


@pytest.mark.parametrize(
    "changes",
    [
        {"config": CONFIG.model_copy(update={"chunk_tokens": 32})},
        {"sites": SITES[:1]},
        {"seed": 1},
        {"manifest": {"run": "b"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_stores_of_another_configuration_are_made_anew(tmp_path, folder, tokens, changes):
    cache(folder, tokens)
    assert cache(folder, tokens, **changes) == 3 * PASSES_PER_SHARD
    for path in tokens:
        assert files(folder / path.name) == alone(path, tmp_path / "alone" / path.name, **changes)


def test_stores_of_a_model_that_was_trained_again_are_made_anew(folder, tokens):
    cache(folder, tokens)
    assert cache(folder, tokens, CountingModel(routers=0.5)) == 3 * PASSES_PER_SHARD


def test_stores_of_other_files_of_a_model_are_made_anew(folder, tokens):
    cache(folder, tokens, model_files="one")
    assert cache(folder, tokens, model_files="one") == 0
    assert cache(folder, tokens, model_files="two") == 3 * PASSES_PER_SHARD


def test_a_shard_whose_text_changed_is_made_anew_and_no_other(tmp_path, folder, tokens):
    cache(folder, tokens)
    write_tokens(tokens[1], 77)
    assert cache(folder, tokens) == PASSES_PER_SHARD
    assert files(folder / tokens[1].name) == alone(tokens[1], tmp_path / "alone")


def test_what_is_none_of_the_stores_is_removed(folder, tokens):
    cache(folder, tokens)
    (folder / "00009.zarr").mkdir()
    (folder / "notes.txt").write_text("not ours")
    (folder / "00003.zarr.partial").mkdir()
    assert cache(folder, tokens) == 0


@pytest.mark.parametrize("text", ["", "[]", "null", '{"00003.zarr": 5}'])
def test_stores_without_a_record_are_made_anew(folder, tokens, text):
    cache(folder, tokens)
    (folder / RECORD).write_text(text)
    assert cache(folder, tokens) == 3 * PASSES_PER_SHARD
    assert sorted(json.loads((folder / RECORD).read_text())) == [path.name for path in tokens]


def test_a_file_in_place_of_a_store_is_replaced(folder, tokens):
    cache(folder, tokens)
    shutil.rmtree(folder / tokens[0].name)
    (folder / tokens[0].name).write_text("a file")
    assert cache(folder, tokens) == PASSES_PER_SHARD


def test_fewer_shards_keep_theirs(folder, tokens):
    cache(folder, tokens)
    assert cache(folder, tokens[1:]) == 0


def cache_beside(stores, tokens, model=None):
    """Return how many forward passes `cache_shards` made."""
    model = model or CountingModel()
    plan = {"config": CONFIG, "sites": SITES, "split": "train", "seed": 0, "manifest": {"run": "a"}}
    cache_shards(stores, model=model, tokens=tokens, **plan)
    return model.n_passes


def test_stores_of_a_job_appear_together_and_a_failed_job_costs_one(tmp_path, tokens):
    stores = [tmp_path / "stores" / path.name for path in tokens]
    with pytest.raises(InterruptedError):
        cache_beside(stores, tokens, CountingModel(stop_at=2 * PASSES_PER_SHARD + 2))
    assert not [store for store in stores if store.exists()]
    for store in stores:  # as a scheduler does, that makes the folders of a job anew
        shutil.rmtree(store, ignore_errors=True)
    assert cache_beside(stores, tokens) == PASSES_PER_SHARD
    for store, path in zip(stores, tokens, strict=True):
        assert files(store) == alone(path, tmp_path / "alone" / path.name)
    assert sorted((tmp_path / "stores").iterdir()) == stores


def test_what_a_job_of_other_shards_left_growing_is_removed(tmp_path, tokens):
    stores = [tmp_path / "stores" / path.name for path in tokens]
    other = (tmp_path / "stores/.growing-00001-00003", tmp_path / "stores/.growing-00006-00007")
    for folder in other:
        folder.mkdir(parents=True)
    assert cache_beside(stores, tokens) == 3 * PASSES_PER_SHARD
    assert [folder.exists() for folder in other] == [False, True]


def test_two_jobs_may_remove_what_another_left_growing(tmp_path, monkeypatch):
    old = tmp_path / ".growing-00000-00007"
    (old / "part").mkdir(parents=True)
    calls = []

    def half_removed(path):
        """Remove a part, and find then that another job has removed the next."""
        calls.append(path)
        if len(calls) == 1:
            shutil.rmtree(path / "part")
            raise FileNotFoundError("part")
        shutil.rmtree(path)

    monkeypatch.setattr(attempts, "remove", half_removed)
    growing_folder([tmp_path / "00000.zarr", tmp_path / "00003.zarr"])
    assert calls == [old, old]
    assert not old.exists()
