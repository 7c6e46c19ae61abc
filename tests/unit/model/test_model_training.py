"""Training learns, and ends in the same bytes whether or not it was killed on the way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from deepseemoe.config import ModelConfig, TrainingConfig
from deepseemoe.corpus.shards import TokenShard, write_shard
from deepseemoe.model import training
from deepseemoe.model.kept import kept_models
from deepseemoe.model.loading import load_model
from deepseemoe.model.schedule import Schedule
from deepseemoe.model.text import PackedText
from deepseemoe.model.training import COLUMNS, Trainer, train_model
from deepseemoe.runtime.tables import read_manifest, read_table

VOCAB, LENGTH, BATCH = 40, 16, 8
SHAPE = {"d_model": 16, "n_layers": 2, "n_heads": 2, "n_experts": 4, "top_k": 2, "d_expert": 8}


def counting_shard(
    path: Path, *, n_sequences: int = 12, length: int = LENGTH, seed: int = 0
) -> Path:
    """Write documents that count upwards from a random number, two to a sequence."""
    rng = np.random.default_rng(seed)
    half = np.arange(length // 2)
    starts = rng.integers(0, VOCAB, (n_sequences, 2, 1))
    ids = ((starts + half) % VOCAB).reshape(n_sequences, length).astype(np.uint32)
    positions = np.tile(half, (n_sequences, 2)).astype(np.uint32)
    doc_ids = np.arange(n_sequences * 2, dtype=np.uint32).repeat(length // 2)
    tokens = TokenShard(ids, doc_ids.reshape(ids.shape), positions)
    write_shard(path, tokens, split="train", shard=0, manifest={})
    return path


@pytest.fixture
def shards(tmp_path) -> list[Path]:
    return [counting_shard(tmp_path / f"{n:05d}.zarr", seed=n) for n in range(2)]


def config(n_steps: int = 12, **changes) -> ModelConfig:
    settings = {"n_tokens": n_steps * BATCH * LENGTH, "batch_sequences": BATCH, **changes}
    dtype = settings.pop("dtype", "float32")
    return ModelConfig(architecture=SHAPE, training=settings, dtype=dtype)


def run(folder: Path, shards: list[Path], n_steps: int = 12, seed: int = 0, **changes) -> None:
    train_model(
        config(n_steps, **changes), vocab_size=VOCAB, shards=shards, folder=folder, seed=seed
    )


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_training_learns_to_count(shards, tmp_path):
    run(tmp_path / "model", shards, 80, learning_rate=2e-2)
    loss = read_table(tmp_path / "model" / "training.parquet")["loss"].to_numpy()
    assert loss[0] == pytest.approx(np.log(VOCAB), abs=0.2)
    assert loss[-10:].mean() < 0.5  # the first token of a document is never asked for
    model = load_model(ModelConfig(), tmp_path / "model")
    text = PackedText(shards, seed=0).batch(0, n_sequences=4)
    guesses = model.logits(text).argmax(-1)[:, 3:7]
    assert (guesses == text.token_ids[:, 4:8]).float().mean() > 0.9


def test_the_folder_holds_a_model_and_its_curves_and_nothing_else(shards, tmp_path):
    run(tmp_path / "model", shards, 5, keep_checkpoints=(0.4,))
    assert sorted(contents(tmp_path / "model")) == [
        "config.json",
        "kept/000002/config.json",
        "kept/000002/model.safetensors",
        "kept/n_steps.json",
        "model.safetensors",
        "training.parquet",
    ]
    assert [path.name for path in tmp_path.iterdir() if "model" in path.name] == ["model"]
    assert AutoConfig.from_pretrained(tmp_path / "model").num_experts == 4
    table = read_table(tmp_path / "model" / "training.parquet")
    assert table.column_names == [column.name for column in COLUMNS]
    assert table["step"].to_pylist() == [1, 2, 3, 4, 5]
    assert table["n_tokens"].to_pylist() == [n * BATCH * LENGTH for n in range(1, 6)]
    assert read_manifest(tmp_path / "model" / "training.parquet")["seed"] == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_killed_run_ends_in_the_bytes_of_one_that_was_not(shards, tmp_path, monkeypatch, dtype):
    settings = {"checkpoint_steps": 4, "z_loss": 1e-3, "dtype": dtype}
    run(tmp_path / "whole", shards, **settings)
    seen, step = [], Trainer.step

    def dies_at_ten(self, number):
        seen.append(number)
        if number == 10:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", dies_at_ten)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", shards, **settings)
    assert not (tmp_path / "killed").exists()
    (tmp_path / "killed.partial").mkdir()  # a kill while the folder grew
    seen.clear()
    monkeypatch.setattr(Trainer, "step", lambda self, n: (seen.append(n), step(self, n))[1])
    run(tmp_path / "killed", shards, **settings)
    assert seen == [8, 9, 10, 11]
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not list(tmp_path.glob("*.checkpoint*"))


def test_how_often_checkpoints_are_written_changes_nothing(shards, tmp_path):
    run(tmp_path / "a", shards, checkpoint_steps=3)
    run(tmp_path / "b", shards, checkpoint_steps=1000)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_weights_are_kept_as_they_were_on_the_way(shards, tmp_path, monkeypatch):
    """After 1 % (at least one step), 50 % and 75 % of 12 steps."""
    seen, step = {}, Trainer.step

    def watched(self, number):
        row = step(self, number)
        seen[number + 1] = {name: p.clone() for name, p in self.weights().items()}
        return row

    monkeypatch.setattr(Trainer, "step", watched)
    run(tmp_path / "model", shards, keep_checkpoints=(0.01, 0.5, 0.75))
    kept = kept_models(tmp_path / "model")
    assert [(one.step, one.trained_share) for one in kept] == [(1, 1 / 12), (6, 0.5), (9, 0.75)]
    for one in kept:
        weights = dict(load_model(ModelConfig(), one.folder).network.named_parameters())
        assert all(torch.equal(weights[name], seen[one.step][name]) for name in weights)
    last = dict(load_model(ModelConfig(), tmp_path / "model").network.named_parameters())
    assert all(torch.equal(last[name], seen[12][name]) for name in last)


def test_nothing_is_kept_where_nothing_is_asked_for(shards, tmp_path):
    run(tmp_path / "model", shards, 5, keep_checkpoints=())
    assert not (tmp_path / "model" / "kept").exists()
    assert kept_models(tmp_path / "model") == []


def test_a_checkpoint_of_another_run_is_left_alone(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "remove", lambda path: None)  # as a kill before the very end
    run(tmp_path / "model", shards, checkpoint_steps=4, seed=1)
    assert (tmp_path / "model.checkpoint").exists()
    run(tmp_path / "model", shards, checkpoint_steps=4, seed=0)
    run(tmp_path / "fresh", shards, seed=0)
    weights = [tmp_path / name / "model.safetensors" for name in ("model", "fresh")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_the_seed_decides(shards, tmp_path):
    run(tmp_path / "a", shards, 2, seed=0)
    run(tmp_path / "b", shards, 2, seed=1)
    assert (
        contents(tmp_path / "a")["model.safetensors"]
        != contents(tmp_path / "b")["model.safetensors"]
    )


def test_the_balance_loss_balances(shards, tmp_path):
    run(tmp_path / "free", shards, 40, learning_rate=2e-2, balance_loss=0)
    run(tmp_path / "held", shards, 40, learning_rate=2e-2, balance_loss=1)
    free, held = (
        read_table(tmp_path / name / "training.parquet")["balance_loss"].to_numpy()[-20:].mean()
        for name in ("free", "held")
    )
    assert held < free
    assert held == pytest.approx(1, abs=0.05)


def test_diverged_training_is_an_error(shards, tmp_path):
    with pytest.raises(ValueError, match="training diverged at step .* lower learning_rate"):
        run(tmp_path / "model", shards, 30, learning_rate=1e30)
    assert not (tmp_path / "model").exists()


def test_tokens_beyond_the_vocabulary_are_refused(shards, tmp_path):
    with pytest.raises(ValueError, match=r"hold token 39, but the tokenizer has 30 entries"):
        train_model(config(), vocab_size=30, shards=shards, folder=tmp_path / "model", seed=0)


# Batches and schedule


def test_a_pass_shows_every_sequence_once_in_an_order_of_its_own(shards):
    text = PackedText(shards, seed=0)
    passes = [
        torch.cat([text.batch(n, n_sequences=8).token_ids for n in range(p, p + 3)]) for p in (0, 3)
    ]
    rows = [sorted(map(tuple, one.tolist())) for one in passes]
    assert rows[0] == rows[1] == sorted(map(tuple, text.token_ids_SN.tolist()))
    assert not torch.equal(passes[0], passes[1])


def test_a_batch_depends_on_seed_and_number_only(shards):
    one, again = PackedText(shards, seed=0), PackedText(shards, seed=0)
    later = one.batch(7, n_sequences=5)
    one.batch(2, n_sequences=5)
    assert torch.equal(again.batch(7, n_sequences=5).token_ids, later.token_ids)
    assert not torch.equal(
        PackedText(shards, seed=1).batch(7, n_sequences=5).token_ids, later.token_ids
    )
    assert torch.equal(later.positions, torch.arange(8).repeat(5, 2))


def test_a_batch_may_be_larger_than_the_text(shards):
    batch = PackedText(shards, seed=0).batch(0, n_sequences=60)
    assert batch.token_ids.shape == (60, LENGTH)


def test_shards_of_different_lengths_are_refused(shards, tmp_path):
    longer = counting_shard(tmp_path / "longer.zarr", length=20)
    with pytest.raises(ValueError, match=r"sequences of \[16, 20\] tokens"):
        PackedText([*shards, longer], seed=0)
    with pytest.raises(ValueError, match="no token shards"):
        PackedText([], seed=0)


def test_the_rate_rises_to_its_peak_and_falls_to_nearly_nothing():
    settings = TrainingConfig(n_tokens=100 * 64, batch_sequences=4, warmup_fraction=0.1)
    schedule = Schedule.of(settings, sequence_length=16)
    rates = np.array([schedule.learning_rate(step) for step in range(schedule.n_steps)])
    assert schedule.n_steps == 100
    assert rates.argmax() == 9
    assert rates.max() == settings.learning_rate
    assert (np.diff(rates[:10]) > 0).all()
    assert (np.diff(rates[9:]) < 0).all()
    assert 0 < rates[-1] < rates.max() / 50


def test_steps_cover_the_tokens_asked_for():
    settings = TrainingConfig(n_tokens=1000, batch_sequences=4, warmup_fraction=0)
    schedule = Schedule.of(settings, sequence_length=16)
    assert (schedule.batch_tokens, schedule.n_steps) == (64, 16)
    assert schedule.learning_rate(0) == settings.learning_rate
