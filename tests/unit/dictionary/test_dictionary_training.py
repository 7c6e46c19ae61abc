"""Training finds what was planted, and nothing where nothing was."""

import numpy as np
import pytest
import torch
from planted_stores import D_MODEL, matched_cosines, sparse_codes, write_store
from planted_training import QUICK, READS, TRAIN, WINDOW, WRITES, train

from deepseemoe.activations.store import ActivationStore
from deepseemoe.dictionary.batches import valid_blocks
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.evaluate import stored_metrics
from deepseemoe.dictionary.site_names import site_names
from deepseemoe.runtime.tables import read_manifest, read_table


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


def test_another_seed_gives_another_dictionary(crosscoder_world, tmp_path):
    stores = crosscoder_world[:1]
    one, two = (train(stores, stores, tmp_path / str(s), seed=s, **QUICK) for s in (0, 1))
    assert not torch.equal(one.decoder_FLD, two.decoder_FLD)
