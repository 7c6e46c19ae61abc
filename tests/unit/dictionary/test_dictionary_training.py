"""Training finds what was planted, stops where it cannot, and survives being killed."""

import sys

import numpy as np
import pytest
import torch
from planted_stores import (
    D_MODEL,
    crosscoder_sites,
    directions,
    matched_cosines,
    sparse_codes,
    transcoder_sites,
    write_store,
)

from deepseemoe.activations.store import ActivationStore
from deepseemoe.config.dictionary import DictionaryConfig
from deepseemoe.dictionary import trainer as trainer_module
from deepseemoe.dictionary.batches import site_names, valid_blocks
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.evaluate import stored_metrics
from deepseemoe.dictionary.train import train_dictionary
from deepseemoe.names import Window
from deepseemoe.runtime.checkpoints import checkpoint_path, write_checkpoint
from deepseemoe.runtime.tables import read_manifest, read_table

WINDOW = Window(0, 1)
TRAIN = {"n_tokens": 150_000, "batch_tokens": 512, "learning_rate": 1e-2, "init_norm": 0.2}
QUICK = {"n_tokens": 20_000, "batch_tokens": 500, "d_dict": 32, "k": 3, "learning_rate": 3e-3}
READS = directions(2)
WRITES = directions(2, seed=1)


@pytest.fixture(scope="module")
def crosscoder_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crosscoder")
    return [
        write_store(folder / f"{seed}.zarr", crosscoder_sites(codes, READS, seed=seed))
        for seed, n_tokens in enumerate((12_288, 12_288, 6144, 6144))
        for codes in [sparse_codes(n_tokens, seed)]
    ]


@pytest.fixture(scope="module")
def transcoder_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transcoder")
    paths = []
    for seed, n_tokens in enumerate((24_576, 6144, 6144)):
        codes = np.stack([sparse_codes(n_tokens, 10 * seed + layer) for layer in (0, 1)], axis=1)
        sites = transcoder_sites(codes, READS, WRITES, seed=seed)
        paths.append(write_store(folder / f"{seed}.zarr", sites))
    return paths


def train(stores, select, folder, **settings):
    options = {"window": WINDOW, "seed": 0, "manifest": {"run": "test"}}
    options |= {name: settings.pop(name) for name in ("window", "seed") if name in settings}
    return train_dictionary(
        DictionaryConfig(**settings), stores=stores, select_stores=select, folder=folder, **options
    )


@pytest.fixture(scope="module")
def crosscoder(crosscoder_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "L00-L01"
    *stores, select, _ = crosscoder_world
    train(stores, [select], folder, d_dict=64, k=3, **TRAIN)
    return folder


def test_a_crosscoder_recovers_the_planted_directions_at_every_layer(crosscoder):
    dictionary = Dictionary.load(crosscoder)
    for layer in range(2):
        cosines = matched_cosines(dictionary.decoder_FLD[:, layer].numpy(), READS[:, layer])
        assert (cosines > 0.9).mean() > 0.9


def test_planted_features_fire_where_they_were_planted(crosscoder, crosscoder_world):
    dictionary = Dictionary.load(crosscoder)
    store = ActivationStore(crosscoder_world[3])
    rows = np.flatnonzero(store.valid_rows())
    planted = sparse_codes(6144, 3)[store["order"].whole()[rows]]
    x = next(valid_blocks(store, site_names("resid_post", WINDOW), block_tokens=8192))
    codes = dictionary.encode(x)
    found = np.zeros((len(x), dictionary.d_dict), np.float32)
    found[np.repeat(np.arange(len(x)), np.diff(codes.offsets)), codes.features] = codes.values
    correlation = np.corrcoef(planted.T, found.T + 1e-9 * np.arange(len(x)))[:48, 48:]
    assert (np.nanmax(correlation, axis=1) > 0.9).mean() > 0.9


def test_l0_on_unseen_tokens_is_within_two_percent_of_k(crosscoder, crosscoder_world):
    dictionary = Dictionary.load(crosscoder)
    assert dictionary.l0 == pytest.approx(3, rel=0.002)
    metrics = stored_metrics(dictionary, [ActivationStore(crosscoder_world[3])])
    assert metrics["l0"] == pytest.approx(3, rel=0.02)
    assert max(metrics["fvu"]) < 0.1
    assert sum(metrics["decoder_norm_share"]) == pytest.approx(1)
    assert metrics["decoder_norm_share"][0] == pytest.approx(0.5, abs=0.05)


def test_the_training_table_tells_the_whole_run(crosscoder):
    table = read_table(crosscoder / "training.parquet")
    rows = table.to_pylist()
    assert 100 <= len(rows) <= 150
    assert rows[-1]["step"] == 150_000 // 512
    assert rows[-1]["n_tokens"] == 512 * rows[-1]["step"]
    assert rows[-1]["fvu"] < 0.1 < rows[0]["fvu"]
    assert rows[10]["l0"] == 3
    assert max(row["learning_rate"] for row in rows) == 1e-2
    assert rows[-1]["learning_rate"] < 2e-4
    assert read_manifest(crosscoder / "training.parquet")["run"] == "test"


def test_nothing_is_recovered_from_noise(tmp_path):
    rng = np.random.default_rng(9)
    noise = {
        name: rng.standard_normal((8192, D_MODEL)) for name in site_names("resid_post", WINDOW)
    }
    path = write_store(tmp_path / "noise.zarr", noise)
    settings = {**TRAIN, "n_tokens": 50_000}
    dictionary = train([path], [path], tmp_path / "out", d_dict=64, k=3, **settings)
    for layer in range(2):
        cosines = matched_cosines(dictionary.decoder_FLD[:, layer].numpy(), READS[:, layer])
        assert (cosines > 0.9).sum() == 0
    metrics = stored_metrics(dictionary, [ActivationStore(path)])
    assert min(metrics["fvu"]) > 0.5


def test_a_transcoder_recovers_what_each_source_layer_writes(transcoder_world, tmp_path):
    train_store, select, test = transcoder_world
    settings = {**TRAIN, "n_tokens": 300_000}
    dictionary = train(
        [train_store], [select], tmp_path / "out", kind="transcoder", d_dict=128, k=6, **settings
    )
    source = dictionary.source_layer_F.numpy()
    for layer in (0, 1):
        mine = dictionary.decoder_FLD[source == layer, layer].numpy()
        assert (matched_cosines(mine, WRITES[:, layer]) > 0.9).mean() > 0.8
    metrics = stored_metrics(dictionary, [ActivationStore(test)])
    assert metrics["l0"] == pytest.approx(6, rel=0.02)
    assert max(metrics["fvu"]) < 0.35


def test_a_transcoder_stays_causal_through_training(transcoder_world, tmp_path):
    train_store, select, _ = transcoder_world
    train([train_store], [select], tmp_path / "out", kind="transcoder", **QUICK)
    dictionary = Dictionary.load(tmp_path / "out")
    late = dictionary.source_layer_F == 1
    assert late.sum() == 16
    assert dictionary.decoder_FLD[late, 0].abs().max() == 0
    assert dictionary.encoder_FLD[late, 0].abs().max() == 0
    assert dictionary.encoder_FLD[~late, 1].abs().max() == 0
    assert (dictionary.decoder_FLD[~late].abs().amax(2) > 0).all()


class KilledError(Exception):
    """Stands for a kill in the middle of training."""


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("kind", ["crosscoder", "transcoder"])
def test_a_run_that_was_killed_twice_ends_in_the_same_bytes(kind, request, tmp_path, monkeypatch):
    stores = request.getfixturevalue(f"{kind}_world")
    settings = {**QUICK, "kind": kind, "checkpoint_steps": 7, "dead_tokens": 1000}
    train(stores[:1], stores[-1:], tmp_path / "whole" / "out", **settings)

    advance = trainer_module.Trainer.advance
    for deadly_step in (5, 23):  # before the first checkpoint, and between two

        def dying(self, batch, deadly_step=deadly_step):
            if self.step == deadly_step:
                raise KilledError
            return advance(self, batch)

        monkeypatch.setattr(trainer_module.Trainer, "advance", dying)
        with pytest.raises(KilledError):
            train(stores[:1], stores[-1:], tmp_path / "killed" / "out", **settings)
    steps = []
    monkeypatch.setattr(
        trainer_module.Trainer,
        "advance",
        lambda self, batch: (steps.append(self.step), advance(self, batch))[1],
    )
    train(stores[:1], stores[-1:], tmp_path / "killed" / "out", **settings)
    assert steps == list(range(21, 40))
    assert files(tmp_path / "killed" / "out") == files(tmp_path / "whole" / "out")
    assert sorted(files(tmp_path / "killed" / "out")) == [
        "config.json", "training.parquet", "weights.safetensors",
    ]  # fmt: skip
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["out"]


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
    advance = trainer_module.Trainer.advance

    def dying(self, batch):
        if self.step == 20:
            raise KilledError
        return advance(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(trainer_module.Trainer, "advance", dying)
        with pytest.raises(KilledError):
            train(first, first, tmp_path / "stale" / "out", checkpoint_steps=7, **QUICK)
    assert checkpoint_path(tmp_path / "stale" / "out").exists()
    train(second, second, tmp_path / "stale" / "out", checkpoint_steps=7, **QUICK)
    assert files(tmp_path / "stale" / "out") == files(tmp_path / "fresh" / "out")


def test_another_seed_gives_another_dictionary(crosscoder_world, tmp_path):
    stores = crosscoder_world[:1]
    one, two = (train(stores, stores, tmp_path / str(s), seed=s, **QUICK) for s in (0, 1))
    assert not torch.equal(one.decoder_FLD, two.decoder_FLD)


def test_a_gradient_that_is_not_finite_ends_training_with_a_clear_error(
    crosscoder_world, tmp_path, monkeypatch
):
    gather = trainer_module.gradient_of

    def poisoned(weights, *args, **kwargs):
        losses, gradient = gather(weights, *args, **kwargs)
        gradient.slope_z[0] = float("nan")
        return losses, gradient

    monkeypatch.setattr(trainer_module, "gradient_of", poisoned)
    with pytest.raises(ValueError, match="step 0: the gradient is not finite .* learning_rate"):
        train(crosscoder_world[:1], crosscoder_world[:1], tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def test_less_than_one_batch_to_train_on_is_refused(crosscoder_world, tmp_path):
    settings = {**QUICK, "n_tokens": 400}
    with pytest.raises(ValueError, match="n_tokens 400 is less than one batch"):
        train(crosscoder_world[:1], crosscoder_world[:1], tmp_path / "out", **settings)


def test_a_window_that_the_stores_do_not_hold_is_refused(crosscoder_world, tmp_path):
    with pytest.raises(ValueError, match="the store lacks resid_post/L02; it holds resid_post/L00"):
        train(crosscoder_world, crosscoder_world, tmp_path / "out", window=Window(1, 2), **QUICK)
    with pytest.raises(ValueError, match="the store lacks moe_in/L00"):
        train(crosscoder_world, crosscoder_world, tmp_path / "out", kind="transcoder", **QUICK)


def test_a_wandb_project_without_wandb_is_an_error(crosscoder_world, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    settings = {**QUICK, "wandb_project": "demo"}
    with pytest.raises(ValueError, match="wandb is not installed; run `pip install wandb`"):
        train(crosscoder_world[:1], crosscoder_world[:1], tmp_path / "out", **settings)


def test_a_wandb_project_gets_every_row_and_changes_no_byte(
    crosscoder_world, tmp_path, monkeypatch
):
    shown = []

    class Run:
        def log(self, row, step):
            shown.append((step, row))

        def finish(self):
            shown.append("finished")

    class Wandb:
        @staticmethod
        def init(project, name, config):
            shown.append((project, name, config["config"]["k"]))
            return Run()

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    stores = crosscoder_world[:1]
    train(stores, stores, tmp_path / "cc" / "L00-L01", wandb_project="demo", **QUICK)
    train(stores, stores, tmp_path / "plain" / "L00-L01", **QUICK)
    rows = read_table(tmp_path / "cc" / "L00-L01" / "training.parquet").to_pylist()
    assert shown == [("demo", "cc L00-L01", 3), *((r["step"], r) for r in rows), "finished"]
    assert files(tmp_path / "cc" / "L00-L01") == files(tmp_path / "plain" / "L00-L01")
