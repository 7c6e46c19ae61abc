"""Dictionaries trained round by round: one round is training on all stores, and no kill is seen."""

import shutil

import numpy as np
import pytest
from planted_stores import crosscoder_sites, directions, matched_cosines, sparse_codes, write_store
from planted_stores import transcoder_sites as transcoder_sites_of

from deepseemoe.config.dictionary import DictionaryConfig
from deepseemoe.config.rounds import Round, rounds_of
from deepseemoe.dictionary import rounds as rounds_module
from deepseemoe.dictionary import trainer as trainer_module
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.launch import train_on
from deepseemoe.dictionary.rounds import Place, finish_rounds, train_round
from deepseemoe.dictionary.together import train_together
from deepseemoe.dictionary.train import Task
from deepseemoe.names import Window
from deepseemoe.runtime.checkpoint_paths import checkpoint_path

COMMON = {"batch_tokens": 250, "learning_rate": 3e-3, "checkpoint_steps": 5, "dead_tokens": 1000}
CONFIGS = {
    "crosscoder": {"d_dict": 32, "k": 3, "n_tokens": 8000},
    "longer": {"d_dict": 32, "k": 3, "n_tokens": 11_250},
    "transcoder": {"kind": "transcoder", "d_dict": 32, "k": 3, "n_tokens": 6000},
    "jumprelu": {"d_dict": 32, "k": 3, "n_tokens": 4000, "activation": "jumprelu"},
}
N_SHARDS = 5


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Return five stores of two layers, as a train split has them."""
    folder, reads, writes = tmp_path_factory.mktemp("stores"), directions(2), directions(2, seed=1)
    paths = []
    for seed in range(N_SHARDS):
        codes = np.stack([sparse_codes(2048, 10 * seed + layer) for layer in (0, 1)], axis=1)
        sites = transcoder_sites_of(codes, reads, writes, seed=seed)
        sites |= crosscoder_sites(codes[:, 0], reads, seed=seed)
        paths.append(write_store(folder / f"{seed:05d}.zarr", sites, shard=seed))
    return paths


def tasks(folder, names=tuple(CONFIGS), **changes):
    return [
        Task.of(
            DictionaryConfig(**{**COMMON, **CONFIGS[name], **changes}),
            Window(0, 1),
            folder / "dictionary" / name / "window",
            {"run": "test"},
        )
        for name in names
    ]


def left(folder, one, names):
    """Return the folders that a round leaves."""
    return [folder / "rounds" / name / one.name for name in names]


def take(stores, folder, one, last, names=tuple(CONFIGS), devices=("cpu",), **changes):
    """Do the job of one round."""
    before = left(folder, Round(one.number - 1, 0, 0, 0), names) if one.number else []
    options = {
        "stores": [stores[shard] for shard in one.shards],
        "place": Place(one, tuple(before)),
        "seed": 0,
    }
    todo = tasks(folder, names, **changes)
    if one == last:
        train_on(devices, todo, work=finish_rounds, select_stores=stores[:1], **options)
    else:
        train_on(devices, todo, work=train_round, kept=left(folder, one, names), **options)


def in_rounds(stores, folder, round_shards, **options):
    rounds = rounds_of(N_SHARDS, round_shards)
    for one in rounds:
        take(stores, folder, one, rounds[-1], **options)
    return folder


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def trained(stores, tmp_path_factory):
    return in_rounds(stores, tmp_path_factory.mktemp("whole"), 2)


def test_rounds_share_out_shards_and_steps():
    rounds = rounds_of(N_SHARDS, 2)
    assert [[*one.shards] for one in rounds] == [[0, 1], [2, 3], [4]]
    assert [one.name for one in rounds] == ["0000", "0001", "0002"]
    steps = [one.steps(32) for one in rounds]
    assert [step for part in steps for step in part] == [*range(32)]
    assert [len(part) for part in steps] == [12, 13, 7]


def test_one_round_of_all_shards_is_training_on_all_stores(stores, tmp_path):
    in_rounds(stores, tmp_path / "round", N_SHARDS)
    todo = tasks(tmp_path / "all")
    train_together(todo, stores=stores, select_stores=stores[:1], seed=0)
    assert files(tmp_path / "round") == files(tmp_path / "all")


def test_dictionaries_together_and_alone_give_the_same_bytes(stores, trained, tmp_path):
    for name in ("longer", "transcoder"):
        in_rounds(stores, tmp_path, 2, names=(name,))
        folder = f"dictionary/{name}"
        assert files(tmp_path / folder) == files(trained / folder)


def test_the_planted_directions_are_found_in_rounds_as_in_all_stores(stores, tmp_path):
    options = {"names": ("crosscoder",), "d_dict": 96, "n_tokens": 120_000}
    in_rounds(stores, tmp_path / "rounds", 1, **options)
    train_together(
        tasks(tmp_path / "all", **options), stores=stores, select_stores=stores[:1], seed=0
    )
    found = []
    for way in ("rounds", "all"):
        dictionary = Dictionary.load(tmp_path / way / "dictionary/crosscoder/window")
        cosines = matched_cosines(dictionary.decoder_FLD[:, 0].numpy(), directions(2)[:, 0])
        found.append((cosines > 0.9).mean())
    assert found[1] > 0.9
    assert found[0] > found[1] - 0.05


class Killed(BaseException):
    """Stands for kill -9: nothing of the job runs after it."""


def kill_after(n_steps, patch):
    """Have trainings die once they have taken so many steps together."""
    advance, calls = trainer_module.Trainer.advance, []

    def until_killed(self, batch):
        calls.append(self)
        if len(calls) > n_steps:
            raise Killed
        return advance(self, batch)

    patch.setattr(trainer_module.Trainer, "advance", until_killed)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("n_steps", [1, 5])
def test_a_round_that_is_killed_ends_in_the_same_bytes(
    number, n_steps, stores, trained, tmp_path, monkeypatch
):
    rounds = rounds_of(N_SHARDS, 2)
    for one in rounds[:number]:
        take(stores, tmp_path, one, rounds[-1])
    with monkeypatch.context() as patch:
        kill_after(n_steps * len(CONFIGS), patch)
        with pytest.raises(Killed):
            take(stores, tmp_path, rounds[number], rounds[-1])
    for one in rounds[number:]:
        take(stores, tmp_path, one, rounds[-1])
    assert files(tmp_path) == files(trained)


def test_a_kill_while_a_group_leaves_costs_none_of_it_the_round(stores, tmp_path, monkeypatch):
    first, names, leave, left_by = rounds_of(N_SHARDS, 2)[0], ("crosscoder", "longer"), [], []

    def until_killed(pupil, folder):
        if left_by:
            raise Killed
        left_by.append(pupil.task.folder)
        leave[0](pupil, folder)

    leave.append(rounds_module._leave)
    with monkeypatch.context() as patch:
        patch.setattr(rounds_module, "_leave", until_killed)
        with pytest.raises(Killed):
            take(stores, tmp_path, first, None, names)
    assert all(checkpoint_path(task.folder).is_file() for task in tasks(tmp_path, names))
    take(stores, tmp_path, first, None, names)
    assert not list(tmp_path.rglob("window.checkpoint"))


def test_a_training_of_fewer_steps_than_rounds_takes_them_all(stores, tmp_path):
    in_rounds(stores, tmp_path, 1, names=("crosscoder",), n_tokens=750)
    assert Dictionary.load(tmp_path / "dictionary/crosscoder/window").d_dict == 32


def test_rounds_that_are_made_again_do_not_begin_with_a_later_checkpoint(
    stores, trained, tmp_path, monkeypatch
):
    rounds, names = rounds_of(N_SHARDS, 2), ("crosscoder",)
    for one in rounds[:2]:
        take(stores, tmp_path, one, rounds[-1], names)
    with monkeypatch.context() as patch:
        kill_after(6, patch)
        with pytest.raises(Killed):
            take(stores, tmp_path, rounds[2], rounds[-1], names)
    assert list(tmp_path.rglob("window.checkpoint"))
    shutil.rmtree(tmp_path / "rounds")
    for one in rounds:
        take(stores, tmp_path, one, rounds[-1], names)
    folder = "dictionary/crosscoder"
    assert files(tmp_path / folder) == files(trained / folder)


def test_what_another_training_left_is_refused(stores, tmp_path):
    rounds, names = rounds_of(N_SHARDS, 2), ("crosscoder",)
    take(stores, tmp_path, rounds[0], rounds[-1], names)
    with pytest.raises(ValueError, match="rounds/crosscoder/0000.*no checkpoint of this training"):
        take(stores, tmp_path, rounds[1], rounds[-1], names, d_dict=48)


def test_damaged_normalisation_is_refused(stores, tmp_path):
    rounds, names = rounds_of(N_SHARDS, 2), ("crosscoder",)
    take(stores, tmp_path, rounds[0], rounds[-1], names)
    (path,) = tmp_path.rglob("normalisation.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="rounds/crosscoder/0000.*not what a round leaves"):
        take(stores, tmp_path, rounds[1], rounds[-1], names)


def test_two_processes_share_a_dictionary_in_rounds(stores, trained, tmp_path):
    in_rounds(stores, tmp_path, 2, names=("crosscoder",), devices=("cpu", "cpu"))
    folder = "dictionary/crosscoder/window"
    two, one = Dictionary.load(tmp_path / folder), Dictionary.load(trained / folder)
    for mine, other in zip(two.weights.tensors(), one.weights.tensors(), strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-4)
    assert not list((tmp_path / "dictionary").rglob("*.checkpoint*"))
