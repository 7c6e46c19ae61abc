"""A real model's store holds what the model records, and its identities hold in the store."""

import numpy as np
import pytest
import torch

from deepseemoe.activations.capture import cache_activations
from deepseemoe.activations.store import ActivationStore
from deepseemoe.activations.tensors import bits_of
from deepseemoe.config.activations import ActivationsConfig
from deepseemoe.corpus.shards import TokenShard, write_shard
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.nanomoe.configuration import NanoMoeConfig
from deepseemoe.model.nanomoe.modeling import NanoMoeForCausalLM
from deepseemoe.model.tokens import TokenBatch

SITES = ("resid_mid/L01", "moe_out/L01", "resid_post/L01", "resid_post/L02")
CONFIG = ActivationsConfig(window_tokens=48, chunk_tokens=16, batch_sequences=2)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 48}
    experts = {"num_experts": 6, "moe_intermediate_size": 16, "first_k_dense_replace": 1}
    config = NanoMoeConfig(vocab_size=50, initializer_range=0.2, **sizes, **experts)
    return MoeModel(NanoMoeForCausalLM(config))


@pytest.fixture(scope="module")
def text():
    rng = np.random.default_rng(0)
    positions = np.tile(np.r_[np.arange(7), np.arange(9)], (7, 1))
    ids = rng.integers(0, 50, positions.shape)
    documents = np.arange(ids.size).reshape(ids.shape) // 30
    return TokenShard(*(values.astype(np.uint32) for values in (ids, documents, positions)))


@pytest.fixture(scope="module")
def store(tmp_path_factory, model, text):
    folder = tmp_path_factory.mktemp("nanomoe")
    write_shard(folder / "00000.zarr", text, split="train", shard=0, manifest={})
    cache_activations(
        CONFIG,
        model=model,
        tokens=folder / "00000.zarr",
        store=folder / "store.zarr",
        sites=SITES,
        split="train",
        shard=0,
        seed=0,
        manifest={},
    )
    return ActivationStore(folder / "store.zarr")


def recorded(model, text, names):
    """Return what the model records, batch by batch, in text order."""
    found = {name: [] for name in names}
    for start in range(0, len(text.token_ids_SN), CONFIG.batch_sequences):
        part = slice(start, start + CONFIG.batch_sequences)
        batch = TokenBatch.from_arrays(text.token_ids_SN[part], text.positions_SN[part])
        with torch.inference_mode(), model.record(names) as acts:
            model.hidden_states(batch)
        for name in names:
            found[name].append(acts[name])
    return {name: torch.cat(values) for name, values in found.items()}


def test_the_store_holds_what_the_model_records(store, model, text):
    routing = ("expert_ids/L01", "expert_ids/L02", "expert_weights/L01", "expert_weights/L02")
    expected = recorded(model, text, (*SITES, *routing))
    rows = store.text_order()
    assert "expert_ids/L00" not in store  # a dense layer has no routing
    for site in SITES:
        bits = bits_of(expected[site]).numpy().view(np.uint16)
        assert np.array_equal(store[site].gather(rows), bits), site
    for name in routing:
        values = expected[name].numpy().astype(store[name].dtype)
        assert np.array_equal(store[name].gather(rows), values), name


def test_the_residual_identity_holds_in_the_store(store):
    mid, out, post = (store.floats(name, 0, store.n_tokens) for name in SITES[:3])
    rounding = 2**-8 * (np.abs(mid) + np.abs(out) + np.abs(post))  # bfloat16 has 8 bits
    assert (np.abs(mid + out - post) <= rounding + 1e-6).all()


def test_weights_fall_and_position_0_is_left_out(store, text):
    weights = store["expert_weights/L02"].whole()
    assert (np.diff(weights.astype(np.float32), axis=1) <= 0).all()
    assert not store.valid_rows()[store["position"].whole() == 0].any()


def check_refused(tmp_path, model, text, told):
    write_shard(tmp_path / "00000.zarr", text, split="train", shard=0, manifest={})
    with pytest.raises(ValueError, match=told):
        cache_activations(
            CONFIG,
            model=model,
            tokens=tmp_path / "00000.zarr",
            store=tmp_path / "store.zarr",
            sites=SITES,
            split="train",
            shard=0,
            seed=0,
            manifest={},
        )
    assert not (tmp_path / "store.zarr").exists()


def test_sequences_beyond_the_model_are_refused(tmp_path, model, text, monkeypatch):
    monkeypatch.setattr(model.network.config, "max_position_embeddings", 8)
    told = "sequences of 16 tokens, but the model was made for 8"
    check_refused(tmp_path, model, text, told)


def test_tokens_without_an_embedding_are_refused(tmp_path, model, text):
    ids_SN = text.token_ids_SN.copy()
    ids_SN[-1, -1] = 50
    told = r"00000.zarr: holds token 50, and the model knows 0 to 49; delete the tokenizer"
    check_refused(tmp_path, model, text._replace(token_ids_SN=ids_SN), told)
