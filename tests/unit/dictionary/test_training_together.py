"""Dictionaries from one pass over the stores are those that are trained one by one, to the bit."""

import shutil
import socket
import subprocess

import numpy as np
import pytest
import torch
from planted_stores import crosscoder_sites, directions, sparse_codes, transcoder_sites, write_store

from deepseemoe.config.dictionary import DictionaryConfig
from deepseemoe.dictionary import batches as batches_module
from deepseemoe.dictionary import trainer as trainer_module
from deepseemoe.dictionary.together import train_together
from deepseemoe.dictionary.train import Task, train_dictionary
from deepseemoe.names import Window

COMMON = {"batch_tokens": 250, "learning_rate": 3e-3, "checkpoint_steps": 7, "dead_tokens": 1000}
CONFIGS = {
    "crosscoder": {"d_dict": 32, "k": 3, "n_tokens": 8000},
    "wide": {"d_dict": 64, "k": 3, "n_tokens": 5000},
    "seed-1": {"d_dict": 32, "k": 3, "n_tokens": 8000, "seed": 1},
    "transcoder": {"kind": "transcoder", "d_dict": 32, "k": 3, "n_tokens": 6000},
    "jumprelu": {"d_dict": 32, "k": 3, "n_tokens": 4000, "activation": "jumprelu"},
}
WINDOWS = {"crosscoder": Window(0, 0), "jumprelu": Window(1, 1)}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Return stores that hold what crosscoders and transcoders of two layers read and write."""
    folder, reads, writes = tmp_path_factory.mktemp("both"), directions(2), directions(2, seed=1)
    paths = []
    for seed in (0, 1):
        codes = np.stack([sparse_codes(4096, 10 * seed + layer) for layer in (0, 1)], axis=1)
        sites = transcoder_sites(codes, reads, writes, seed=seed)
        sites |= crosscoder_sites(codes[:, 0], reads, seed=seed)
        paths.append(write_store(folder / f"{seed}.zarr", sites))
    return paths


def tasks(folder, *, names=tuple(CONFIGS), **changes):
    return [
        Task.of(
            DictionaryConfig(**{**COMMON, **CONFIGS[name], **changes}),
            WINDOWS.get(name, Window(0, 1)),
            folder / name / "window",
            {"run": "test"},
        )
        for name in names
    ]


def together(stores, folder, **options):
    return train_together(tasks(folder, **options), stores=stores, select_stores=stores[1:], seed=0)


def alone(stores, folder, task):
    return train_dictionary(
        task.config,
        window=task.window,
        stores=stores,
        select_stores=stores[1:],
        folder=folder,
        seed=0,
        manifest={"run": "test"},
    )


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def trained(stores, tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    together(stores, folder)
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_together_and_alone_give_the_same_bytes(name, stores, trained, tmp_path):
    (task,) = tasks(tmp_path, names=[name])
    alone(stores, task.folder, task)
    mine, theirs = files(tmp_path / name), files(trained / name)
    assert len(mine) == 3
    assert mine == theirs


def test_a_seed_of_its_own_is_of_the_start_and_not_of_the_text(stores, tmp_path):
    settings = {"names": ["wide"], "n_tokens": 1000}
    for name, changes in {"run's": {}, "0": {"seed": 0}, "1": {"seed": 1}}.items():
        together(stores, tmp_path / name, **settings, **changes)
    weights = {
        name: (tmp_path / name / "wide" / "window" / "weights.safetensors").read_bytes()
        for name in ("run's", "0", "1")
    }
    assert weights["run's"] == weights["0"] != weights["1"]


def test_starts_of_two_seeds_learn_from_the_same_batches(stores, tmp_path, monkeypatch):
    seen = {}
    advance = trainer_module.Trainer.advance

    def looking(self, batch):
        seen.setdefault(self.step, []).append(batch.inputs_TC.clone())
        return advance(self, batch)

    monkeypatch.setattr(trainer_module.Trainer, "advance", looking)
    for seed in (0, 1):
        (task,) = tasks(tmp_path / str(seed), names=["wide"], n_tokens=1000, seed=seed)
        alone(stores, task.folder, task)
    assert len(seen) == 4
    assert all(torch.equal(*pair) for pair in seen.values())


def test_every_array_of_a_chunk_is_read_once_a_batch(stores, tmp_path, monkeypatch):
    read = []
    gather = batches_module.CachedBatches._gather

    def counting(self, pieces, sites):
        read.append(sites.names)
        return gather(self, pieces, sites)

    monkeypatch.setattr(batches_module.CachedBatches, "_gather", counting)
    together(stores, tmp_path, names=["wide", "seed-1"], n_tokens=2500)
    assert len(read) == 10
    assert set(read) == {("resid_post/L00", "resid_post/L01")}


class KilledError(Exception):
    """Stands for a kill in the middle of training."""


def test_a_killed_job_ends_in_the_same_bytes(stores, trained, tmp_path, monkeypatch):
    advance = trainer_module.Trainer.advance
    for deadly in (3, 40, 30, 20):  # before any checkpoint, and between those of some and others
        count = iter(range(10**6))

        def dying(self, batch, count=count, deadly=deadly):
            if next(count) == deadly:
                raise KilledError
            return advance(self, batch)

        monkeypatch.setattr(trainer_module.Trainer, "advance", dying)
        with pytest.raises(KilledError):
            together(stores, tmp_path)
        assert not list(tmp_path.rglob("config.json"))
    taken = []
    monkeypatch.setattr(
        trainer_module.Trainer,
        "advance",
        lambda self, batch: (taken.append(self.step), advance(self, batch))[1],
    )
    together(stores, tmp_path)
    assert min(taken) > 0
    assert files(tmp_path) == files(trained)


def test_a_checkpoint_made_together_serves_alone(stores, trained, tmp_path, monkeypatch):
    advance = trainer_module.Trainer.advance

    def dying(self, batch):
        if self.step == 12:
            raise KilledError
        return advance(self, batch)

    monkeypatch.setattr(trainer_module.Trainer, "advance", dying)
    with pytest.raises(KilledError):
        together(stores, tmp_path)
    steps = []
    monkeypatch.setattr(
        trainer_module.Trainer,
        "advance",
        lambda self, batch: (steps.append(self.step), advance(self, batch))[1],
    )
    (task,) = tasks(tmp_path, names=["transcoder"])
    alone(stores, task.folder, task)
    assert steps == [*range(7, 24)]
    assert files(task.folder) == files(trained / "transcoder" / "window")


def test_different_batches_are_refused(stores, tmp_path):
    both = [
        tasks(tmp_path, names=["wide"])[0],
        tasks(tmp_path, names=["transcoder"], batch_tokens=300)[0],
    ]
    message = "share batch_tokens; wide L00-L01 has 250, transcoder L00-L01 has 300"
    with pytest.raises(ValueError, match=message):
        train_together(both, stores=stores, select_stores=stores, seed=0)


def test_what_an_orphan_trained_is_not_trained_again(stores, trained, tmp_path, monkeypatch):
    ended = subprocess.Popen(["true"])
    ended.wait()
    with monkeypatch.context() as patched:
        patched.setenv("DEEPSEEMOE_WORKFLOW_PROCESS", f"{ended.pid}@{socket.gethostname()}")
        together(stores, tmp_path, names=["crosscoder"])
    shutil.rmtree(tmp_path / "crosscoder/window")  # as Snakemake does, which saw no end of the job
    with monkeypatch.context() as patched:
        patched.setattr(trainer_module.Trainer, "advance", None)
        together(stores, tmp_path, names=["crosscoder"])
    assert files(tmp_path) == {
        path: text for path, text in files(trained).items() if path.parts[0] == "crosscoder"
    }
