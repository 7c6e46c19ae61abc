"""A run that brings no model gets the one its configuration names."""

import numpy as np
import pytest

from deepseemoe.config import CorpusConfig, ModelConfig
from deepseemoe.corpus.shards import TokenShard, write_shard
from deepseemoe.corpus.tokenizer import prepare_tokenizer
from deepseemoe.model.loading import load_model
from deepseemoe.model.make import make_model

SHAPE = {"d_model": 64, "n_layers": 1, "n_experts": 6, "top_k": 2, "d_expert": 16}


@pytest.fixture
def corpus(tmp_path):
    """Return what `make_model` reads of a planted corpus."""
    folder, shard = tmp_path / "tokenizer", tmp_path / "00000.zarr"
    config = CorpusConfig(source="planted")
    prepare_tokenizer(config, model_name=None, revision=None, folder=folder, seed=0)
    ids = np.random.default_rng(0).integers(1, 160, (8, 16)).astype(np.uint32)
    positions = np.tile(np.arange(16, dtype=np.uint32), (8, 1))
    write_shard(shard, TokenShard(ids, positions, positions), split="train", shard=0, manifest={})
    return {"tokenizer_folder": folder, "shards": [shard], "seed": 0}


@pytest.mark.parametrize("source", ["nanomoe", "planted"])
def test_the_source_decides_what_is_made(corpus, tmp_path, source):
    settings = {"n_tokens": 256, "batch_sequences": 4}
    config = ModelConfig(source=source, architecture=SHAPE, training=settings)
    make_model(config, folder=tmp_path / "model", **corpus)
    assert (tmp_path / "model" / "truth.json").exists() == (source == "planted")
    assert (tmp_path / "model" / "training.parquet").exists() == (source == "nanomoe")
    model = load_model(config, tmp_path / "model")
    assert model.network.config.vocab_size == 163
    assert (model.d_model, model.n_experts) == (64, 6)


def test_a_model_of_the_hub_is_not_made(corpus, tmp_path):
    config = ModelConfig(source="hub", name="allenai/OLMoE-1B-7B-0924")
    with pytest.raises(ValueError, match="there is no model to make"):
        make_model(config, folder=tmp_path / "model", **corpus)
