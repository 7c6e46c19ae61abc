"""compare_centroids and measure_saturation on a tiny NanoMoE that is trained here for 40 steps."""

import numpy as np
import pytest
import torch

from deepseemoe.config import ModelConfig, RoutingConfig
from deepseemoe.corpus.sequences import positions
from deepseemoe.corpus.shards import TokenShard, write_shard
from deepseemoe.model.loading import load_model
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.model.training import train_model
from deepseemoe.routing.compare_centroids import compare_centroids
from deepseemoe.routing.sample import first_sequences, run_sample
from deepseemoe.routing.saturate import measure_saturation
from deepseemoe.routing.schemas import CENTROIDS, CENTROIDS_LAYERS, SATURATION
from deepseemoe.runtime.tables import read_manifest, read_table

VOCAB, LENGTH = 40, 32
SHAPE = {"d_model": 16, "n_layers": 3, "n_heads": 2, "n_experts": 4, "top_k": 2, "d_expert": 8,
         "n_dense_layers": 1}  # fmt: skip
CONFIG = RoutingConfig(centroid_tokens=1000, saturation_tokens=700, n_bootstrap=50)


def counting_shard(path, *, seed, n_sequences=24):
    """Write documents of 8 tokens that count upwards from a random number."""
    rng = np.random.default_rng(seed)
    ids = (rng.integers(VOCAB, size=(n_sequences, LENGTH // 8, 1)) + np.arange(8)) % VOCAB
    documents = np.arange(n_sequences * LENGTH // 8).repeat(8).reshape(n_sequences, LENGTH)
    documents = (documents + 1000 * seed).astype(np.uint32)
    tokens = TokenShard(ids.reshape(documents.shape).astype(np.uint32), documents,
                        positions(documents))  # fmt: skip
    write_shard(path, tokens, split="test", shard=0, manifest={})
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return [counting_shard(folder / f"{n:05d}.zarr", seed=n) for n in range(2)]


@pytest.fixture(scope="module")
def folder(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "model"
    training = {"n_tokens": 40 * 8 * LENGTH, "batch_sequences": 8, "learning_rate": 2e-2,
                "keep_checkpoints": (0.025, 0.5, 0.95)}  # fmt: skip
    config = ModelConfig(architecture=SHAPE, training=training)
    train_model(config, vocab_size=VOCAB, shards=shards, folder=folder, seed=0)
    return folder


def columns_of(path, columns):
    table = read_table(path)
    assert table.schema.names == [column.name for column in columns]
    return {name: table[name].to_numpy() for name in table.schema.names}


def test_a_sample_is_what_the_model_does_beyond_the_first_tokens(folder, shards):
    model = load_model(ModelConfig(), folder)
    sample = first_sequences(shards, 1000)
    assert sample.token_ids_SN.shape == (32, LENGTH)  # 24 of the first shard, 8 of the second
    found = run_sample(model, sample, ["moe_in/L01", "expert_ids/L02"])
    with model.record(["moe_in/L01", "expert_ids/L02"]) as acts, torch.inference_mode():
        model.hidden_states(TokenBatch.from_arrays(sample.token_ids_SN, sample.positions_SN))
    inside = sample.positions_SN.ravel() > 0
    np.testing.assert_allclose(found.values["moe_in/L01"], acts["moe_in/L01"][inside], atol=1e-5)
    same = found.values["expert_ids/L02"] == acts["expert_ids/L02"].numpy()[inside]
    assert same.mean() > 0.99
    assert np.array_equal(found.document_T, sample.doc_ids_SN.ravel()[inside])
    assert first_sequences(shards, 10**6).token_ids_SN.shape == (48, LENGTH)
    with pytest.raises(ValueError, match="no token shards of the test split"):
        first_sequences([], 10)


def test_tables_of_centroids_have_each_layer_and_expert(folder, shards, tmp_path, monkeypatch):
    model = load_model(ModelConfig(), folder)
    for group_bytes in (2 << 30, 1):
        monkeypatch.setattr("deepseemoe.routing.compare_centroids.GROUP_BYTES", group_bytes)
        paths = {n: tmp_path / f"{n}-{group_bytes}.parquet" for n in ("experts", "layers")}
        compare_centroids(CONFIG, model=model, tokens=shards, **paths, seed=0)
    ends = [[tmp_path / f"{n}-{size}.parquet" for size in (2 << 30, 1)]
            for n in ("experts", "layers")]  # fmt: skip
    assert all(one.read_bytes() == other.read_bytes() for one, other in ends)
    experts = columns_of(paths["experts"], CENTROIDS)
    layers = columns_of(paths["layers"], CENTROIDS_LAYERS)
    assert layers["layer"].tolist() == [1, 2]
    assert experts["expert"].tolist() == [0, 1, 2, 3] * 2
    n_tokens = read_manifest(paths["layers"])["n_tokens"]
    assert experts["n_tokens"][:4].sum() == 2 * n_tokens
    found = run_sample(model, first_sequences(shards, 1000), ["moe_in/L02", "expert_ids/L02"])
    inputs, ids = found.values.values()
    mean = inputs[(ids == 3).any(1)].mean(0) - inputs.mean(0)
    row = model.router_weight(2)[3].numpy()
    cosine = row @ mean / np.linalg.norm(row) / np.linalg.norm(mean)
    assert experts["centred_cosine"][-1] == pytest.approx(cosine, abs=1e-5)
    # a linear router sends to an expert what points along its row
    assert (experts["centred_cosine"] > 2 * experts["chance_sd"]).mean() > 0.7
    assert (layers["nearest"] > layers["chance_nearest"]).all()


def test_routers_settle_while_they_are_trained(folder, shards, tmp_path):
    path = tmp_path / "saturation.parquet"
    measure_saturation(
        CONFIG, model_config=ModelConfig(), model=folder, tokens=shards, table=path, seed=0
    )
    rows = columns_of(path, SATURATION)
    assert sorted({*zip(rows["step"], rows["trained_share"], strict=True)}) == [
        (1, 0.025), (20, 0.5), (38, 0.95)
    ]  # fmt: skip
    assert {*rows["layer"]} == {1, 2}
    assert {*zip(rows["k"], rows["chance"], strict=True)} == {(1, 0.25), (2, 0.5)}
    for layer in (1, 2):
        for k in (1, 2):
            mine = (rows["layer"] == layer) & (rows["k"] == k)
            early, middle, late = rows["saturation"][mine]
            assert early < middle + 0.1 < late + 0.2
            assert late > 0.9
            assert (rows["saturation_lo"][mine] <= rows["saturation"][mine]).all()
            assert (rows["saturation"][mine] <= rows["saturation_hi"][mine]).all()


def test_a_model_that_kept_nothing_is_refused(folder, shards, tmp_path):
    with pytest.raises(ValueError, match="no checkpoints are kept; set model.training"):
        measure_saturation(
            CONFIG,
            model_config=ModelConfig(),
            model=folder / "kept" / "000001",
            tokens=shards,
            table=tmp_path / "table.parquet",
            seed=0,
        )
