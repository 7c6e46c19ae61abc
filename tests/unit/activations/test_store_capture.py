"""Caching a shard: the values of a hand-set model stand at their tokens in the store."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from store_bytes import files

from deepseemoe.activations.bfloat16 import narrow
from deepseemoe.activations.capture import cache_activations, stored_arrays
from deepseemoe.activations.store import ActivationStore
from deepseemoe.activations.tensors import as_bfloat16, bits_of
from deepseemoe.config.activations import ActivationsConfig
from deepseemoe.corpus.shards import TokenShard, write_shard

N_SEQUENCES, LENGTH, D_MODEL, TOP_K = 13, 10, 6, 2
SITES = ("resid_post/L00", "moe_in/L01")
CONFIG = ActivationsConfig(window_tokens=64, chunk_tokens=16, batch_sequences=4)


class HandSetModel:
    """A model whose values are functions of the token, the layer and the site alone."""

    n_layers, d_model, n_experts, top_k, moe_layers = 2, D_MODEL, 5, TOP_K, (1,)
    max_positions, vocab_size = LENGTH, N_SEQUENCES * LENGTH

    def __init__(self, dtype=torch.float32, spoil=lambda acts: None):
        self.dtype, self.spoil = dtype, spoil

    @contextmanager
    def record(self, sites, stop=False):
        self.sites, self.acts = list(sites), {}
        yield self.acts

    def hidden_states(self, tokens):
        flat = tokens.token_ids.reshape(-1)
        self.acts.update({site: self.value(site, flat) for site in self.sites})
        self.spoil(self.acts)

    def value(self, site, ids):
        point, layer = site.split("/L")
        if point == "expert_ids":
            return torch.stack([ids % 5, (ids + 1) % 5], 1)
        if point == "expert_weights":
            return torch.stack([torch.full_like(ids, 0.75, dtype=self.dtype)] * 2, 1)
        if point == "router_logits":
            return (ids[:, None] + torch.arange(5)).to(self.dtype)
        column = torch.arange(D_MODEL) + 10 * int(layer) + len(point)
        return (ids[:, None] + column / 7).to(self.dtype)


@pytest.fixture
def text():
    ids = np.random.default_rng(0).permutation(N_SEQUENCES * LENGTH).reshape(-1, LENGTH)
    documents = np.arange(N_SEQUENCES * LENGTH).reshape(-1, LENGTH) // 25
    positions = np.tile(np.arange(LENGTH), (N_SEQUENCES, 1))
    return TokenShard(*(values.astype(np.uint32) for values in (ids, documents, positions)))


@pytest.fixture
def tokens(tmp_path, text):
    path = tmp_path / "00003.zarr"
    write_shard(path, text, split="test", shard=3, manifest={})
    return path


def cache(tokens, store, model=None, config=CONFIG, sites=SITES, **changes):
    plan = {"split": "test", "shard": 3, "seed": 0, "manifest": {"model": "hand-set"}, **changes}
    model = model or HandSetModel()
    cache_activations(config, model=model, tokens=tokens, store=store, sites=sites, **plan)
    return ActivationStore(store)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_value_stands_at_its_token(tmp_path, tokens, text, dtype):
    model = HandSetModel(dtype)
    store = cache(tokens, tmp_path / "s", model)
    order = store["order"].whole()
    ids = text.token_ids_SN.reshape(-1)[order]
    assert store.sites == SITES
    assert np.array_equal(store["token_id"].whole(), ids)
    assert np.array_equal(store["doc_id"].whole(), text.doc_ids_SN.reshape(-1)[order])
    assert np.array_equal(store["position"].whole(), text.positions_SN.reshape(-1)[order])
    for site in SITES:
        expected = model.value(site, torch.from_numpy(ids.astype(np.int64)))
        assert np.array_equal(store[site].whole(), narrow(expected.float().numpy())), site
    assert store["expert_ids/L01"].dtype == np.uint8
    assert np.array_equal(store["expert_ids/L01"].whole()[:, 0], ids % 5)
    assert store["expert_weights/L01"].dtype == np.float16
    assert (store["expert_weights/L01"].whole() == 0.75).all()


def test_batches_of_any_size_give_the_same_bytes(tmp_path, tokens):
    for size in (1, 3, 8, 100):
        config = CONFIG.model_copy(update={"batch_sequences": size})
        cache(tokens, tmp_path / str(size), config=config)
    assert files(tmp_path / "1") == files(tmp_path / "3") == files(tmp_path / "8")
    assert files(tmp_path / "1") == files(tmp_path / "100")


def test_a_run_that_broke_off_is_made_anew_with_the_same_bytes(tmp_path, tokens):
    cache(tokens, tmp_path / "whole")
    broken = HandSetModel(spoil=lambda acts: acts["moe_in/L01"].div_(acts["moe_in/L01"] < 125))
    with pytest.raises(ValueError, match="moe_in/L01 is infinite or NaN"):
        cache(tokens, tmp_path / "s", broken)
    assert not (tmp_path / "s").exists()
    assert files(cache(tokens, tmp_path / "s").path) == files(tmp_path / "whole")


def test_the_shard_may_be_given_by_its_name(tmp_path, tokens):
    cache(tokens, tmp_path / "number", shard=3)
    cache(tokens, tmp_path / "name", shard="00003")
    assert files(tmp_path / "number") == files(tmp_path / "name")


def test_router_logits_are_stored_where_asked(tmp_path, tokens):
    config = CONFIG.model_copy(update={"router_logits": False})
    assert "router_logits/L01" not in cache(tokens, tmp_path / "without", config=config)
    store = cache(tokens, tmp_path / "with")
    logits = store["router_logits/L01"].whole()
    assert logits.dtype == np.float32
    assert np.array_equal(logits, store["token_id"].whole()[:, None] + np.arange(5))


def test_experts_beyond_256_take_two_bytes(tmp_path, tokens):
    model = HandSetModel(spoil=lambda acts: acts["expert_ids/L01"].add_(290))
    model.n_experts = 300
    config = CONFIG.model_copy(update={"router_logits": False})  # the double has five experts
    store = cache(tokens, tmp_path / "s", model, config=config)
    assert store["expert_ids/L01"].dtype == np.uint16
    assert np.array_equal(
        store["expert_ids/L01"].whole()[:, 0], store["token_id"].whole() % 5 + 290
    )


@pytest.mark.parametrize(
    ("n_experts", "dtype"), [(8, "uint8"), (256, "uint8"), (257, "uint16"), (512, "uint16")]
)
def test_expert_ids_have_the_smallest_type_that_fits(n_experts, dtype):
    model = HandSetModel()
    model.n_experts = n_experts
    specs = {spec.name: spec for spec in stored_arrays(model, SITES)}
    assert specs["expert_ids/L01"].dtype == dtype


def test_sites_that_the_model_lacks_are_named_together(tmp_path, tokens):
    sites = ("resid_post/L00", "resid_post/L02", "expert_ids/L01", "moe_in/L07")
    with pytest.raises(
        ValueError, match="sites resid_post/L02, expert_ids/L01, moe_in/L07: .*layers 0 to 1"
    ):
        cache(tokens, tmp_path / "s", sites=sites)


def test_a_first_batch_that_does_not_fit_is_refused_with_all_that_is_wrong(tmp_path, tokens):
    def spoil(acts):
        acts["moe_in/L01"] = acts["moe_in/L01"][:, :5]
        del acts["expert_ids/L01"]

    expected = r"moe_in/L01 is \(40, 5\), expected \(40, 6\); expert_ids/L01 is nothing, expected"
    with pytest.raises(ValueError, match=expected):
        cache(tokens, tmp_path / "s", HandSetModel(spoil=spoil))


def test_sites_that_stand_twice_are_stored_once(tmp_path, tokens):
    assert cache(tokens, tmp_path / "s", sites=(*SITES, *SITES)).sites == SITES


def test_bits_and_tensors_share_their_memory(tmp_path, tokens):
    values = torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16)
    assert bits_of(values).data_ptr() == values.data_ptr()
    bits = bits_of(values).numpy().view(np.uint16)
    assert as_bfloat16(bits).data_ptr() == values.data_ptr()
    chunk = cache(tokens, tmp_path / "s")["resid_post/L00"].chunk(0)
    tensor = as_bfloat16(chunk)  # of read-only memory, without a warning
    assert tensor.data_ptr() == chunk.ctypes.data
    assert np.array_equal(narrow(tensor.float().numpy()), chunk)


def test_numpy_rounds_to_bfloat16_as_torch_does():
    values = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 1e3
    assert np.array_equal(narrow(values.numpy()), bits_of(values).numpy().view(np.uint16))
