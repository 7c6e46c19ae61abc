"""Training survives being killed, to the byte, and uses no checkpoint of anything else."""

from contextlib import contextmanager

import pytest
import torch
from planted_training import QUICK, KilledError, files, train

from deepseemoe.activations.store import ActivationStore
from deepseemoe.dictionary import scan
from deepseemoe.dictionary import trainer as trainer_module
from deepseemoe.runtime.checkpoint_paths import checkpoint_path
from deepseemoe.runtime.checkpoints import write_checkpoint

ADVANCE = trainer_module.Trainer.advance
FORMS = {
    "crosscoder": {},
    "transcoder": {"kind": "transcoder"},
    "matryoshka": {"prefixes": (0.25, 0.5), "activation": "topk"},
    "skip and pre/post": {
        "kind": "transcoder", "skip": True, "reconstruct_input": True, "activation": "jumprelu",
        "prefixes": (0.5,),
    },
    "dictionary_learning's": {"pre_bias": True, "decoder_norm": "unit", "activation": "relu"},
}  # fmt: skip


@contextmanager
def deadly(monkeypatch, step):
    """Have training die at a step."""

    def dying(self, batch):
        if self.step == step:
            raise KilledError
        return ADVANCE(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(trainer_module.Trainer, "advance", dying)
        with pytest.raises(KilledError):  # noqa: PT012  what is in it is the caller's
            yield


def stores_of(form, request):
    return request.getfixturevalue(f"{FORMS[form].get('kind', 'crosscoder')}_world")


def train_killed_twice(stores, folder, settings, monkeypatch):
    """Train with kills before the first checkpoint and between two; return the steps after."""
    for step in (5, 23):
        with deadly(monkeypatch, step):
            train(stores[:1], stores[-1:], folder, **settings)
    steps = []
    with monkeypatch.context() as patched:
        patched.setattr(
            trainer_module.Trainer,
            "advance",
            lambda self, batch: (steps.append(self.step), ADVANCE(self, batch))[1],
        )
        train(stores[:1], stores[-1:], folder, **settings)
    return steps


@pytest.mark.parametrize("form", FORMS)
def test_a_run_that_was_killed_twice_ends_in_the_same_bytes(form, request, tmp_path, monkeypatch):
    stores = stores_of(form, request)
    settings = {**QUICK, **FORMS[form], "checkpoint_steps": 7, "dead_tokens": 1000}
    train(stores[:1], stores[-1:], tmp_path / "whole" / "out", **settings)
    steps = train_killed_twice(stores, tmp_path / "killed" / "out", settings, monkeypatch)
    assert steps == list(range(21, 40))
    found = files(tmp_path / "killed" / "out")
    assert found == files(tmp_path / "whole" / "out")
    assert sorted(found) == ["config.json", "training.parquet", "weights.safetensors"]
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["out"]


@pytest.mark.parametrize("form", FORMS)
def test_a_killed_run_ends_in_the_same_bytes_where_bfloat16_is_fast(
    form, request, tmp_path, monkeypatch
):
    monkeypatch.setattr(scan, "_is_rough_fast", lambda inputs: True)
    monkeypatch.setattr(scan, "ENOUGH", 1)
    stores = stores_of(form, request)
    settings = {**QUICK, **FORMS[form], "checkpoint_steps": 7, "dead_tokens": 1000}
    train(stores[:1], stores[-1:], tmp_path / "whole" / "out", **settings)
    train_killed_twice(stores, tmp_path / "killed" / "out", settings, monkeypatch)
    assert files(tmp_path / "killed" / "out") == files(tmp_path / "whole" / "out")


@pytest.mark.parametrize(
    "change",
    [
        {"k": 4},
        {"activation": "topk"},
        {"prefixes": (0.5,)},
        {"pre_bias": True},
        {"decoder_norm": "unit"},
        {"seed": 1},
    ],
    ids=str,
)
def test_a_checkpoint_of_another_recipe_is_not_used(
    change, crosscoder_world, tmp_path, monkeypatch
):
    stores, settings = crosscoder_world[:1], {**QUICK, "n_tokens": 5000, "checkpoint_steps": 3}
    with deadly(monkeypatch, 8):
        train(stores, stores, tmp_path / "stale" / "out", **settings)
    assert checkpoint_path(tmp_path / "stale" / "out").exists()
    for name in ("stale", "fresh"):
        train(stores, stores, tmp_path / name / "out", **{**settings, **change})
    assert files(tmp_path / "stale" / "out") == files(tmp_path / "fresh" / "out")


def test_a_damaged_checkpoint_is_told_in_one_line(crosscoder_world, tmp_path):
    path = checkpoint_path(tmp_path / "out")
    path.write_bytes(b"half a checkpoint")
    with pytest.raises(
        ValueError, match=r"out.checkpoint: not a readable checkpoint .*; delete it"
    ):
        train(crosscoder_world[:1], crosscoder_world[:1], tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_configuration_is_not_used(crosscoder_world, tmp_path):
    stores = crosscoder_world[:1]
    train(stores, stores, tmp_path / "fresh" / "out", **QUICK)
    path = checkpoint_path(tmp_path / "stale" / "out")
    path.parent.mkdir()
    write_checkpoint(path, run="other", step=30, tensors={"x": torch.zeros(1)}, log={})
    train(stores, stores, tmp_path / "stale" / "out", **QUICK)
    assert files(tmp_path / "stale" / "out") == files(tmp_path / "fresh" / "out")


def test_a_checkpoint_of_other_activations_is_not_used(crosscoder_world, tmp_path, monkeypatch):
    first, second = crosscoder_world[:1], crosscoder_world[1:2]
    assert ActivationStore(first[0]).manifest == ActivationStore(second[0]).manifest
    train(second, second, tmp_path / "fresh" / "out", checkpoint_steps=7, **QUICK)
    with deadly(monkeypatch, 20):
        train(first, first, tmp_path / "stale" / "out", checkpoint_steps=7, **QUICK)
    assert checkpoint_path(tmp_path / "stale" / "out").exists()
    train(second, second, tmp_path / "stale" / "out", checkpoint_steps=7, **QUICK)
    assert files(tmp_path / "stale" / "out") == files(tmp_path / "fresh" / "out")
