"""A small random NanoMoE with a test split: token shards, and the stores of its activations."""

from typing import NamedTuple

import numpy as np
import torch
from planted_stores import write_store

from deepseemoe.corpus.shards import TokenShard, write_shard
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import Weighted
from deepseemoe.dictionary.layout import n_slots, parts_of
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.dictionary.weights import Weights
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.nanomoe.configuration import NanoMoeConfig
from deepseemoe.model.nanomoe.modeling import NanoMoeForCausalLM
from deepseemoe.model.tokens import TokenBatch

D_MODEL, N_LAYERS, VOCAB, LENGTH, N_SEQUENCES = 16, 4, 50, 32, 6


class Split(NamedTuple):
    """Files of a test split."""

    stores: list
    tokens: list


def small_model():
    """Return a model whose routers and experts matter."""
    config = NanoMoeConfig(
        vocab_size=VOCAB,
        hidden_size=D_MODEL,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        moe_intermediate_size=16,
        num_experts=4,
        num_experts_per_tok=2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MoeModel(NanoMoeForCausalLM(config))


def tokens_of(seed):
    """Return sequences of two documents each, the second from place 20 on."""
    ids = np.random.default_rng(seed).integers(1, VOCAB, (N_SEQUENCES, LENGTH), dtype=np.uint32)
    row = np.concatenate([np.arange(20), np.arange(LENGTH - 20)]).astype(np.uint32)
    positions = np.tile(row, (N_SEQUENCES, 1))
    return TokenShard(
        ids, np.cumsum(positions == 0).reshape(ids.shape).astype(np.uint32), positions
    )


def write_split(folder, model, sites, *, n_shards=2):
    """Write token shards, and stores of `sites`, and return their paths."""
    split = Split([], [])
    for shard in range(n_shards):
        tokens = tokens_of(shard)
        path = folder / f"tokens-{shard}.zarr"
        write_shard(path, tokens, split="test", shard=shard, manifest={})
        batch = TokenBatch.from_arrays(tokens.token_ids_SN, tokens.positions_SN)
        with model.record(sites) as acts:
            model.hidden_states(batch)
        arrays = {site: acts[site].numpy() for site in sites}
        flat = {"positions": tokens.positions_SN.ravel(), "token_ids": tokens.token_ids_SN.ravel()}
        write_store(folder / f"store-{shard}.zarr", arrays, split="test", shard=shard, **flat)
        split.tokens.append(path)
        split.stores.append(folder / f"store-{shard}.zarr")
    return split


def plain(n_layers):
    """Return a normalisation that changes nothing."""
    return Normalisation(torch.zeros(n_layers, D_MODEL), torch.ones(n_layers))


def identity_crosscoder(window):
    """Return a crosscoder with a feature for each direction and sign: it reconstructs exactly."""
    n_layers = len(window.layers)
    eye = torch.eye(n_layers * D_MODEL)
    both = torch.cat([eye, -eye])
    zeros = torch.zeros(len(both))
    weights = Weights((both,), zeros, (both.clone(),), torch.zeros(n_layers * D_MODEL))
    none = plain(n_layers)
    return Dictionary("crosscoder", window, 8, "resid_post", "resid_post", weights, none, none)


def random_transcoder(window, *, d_dict=40, threshold=0.5, seed=0, skip=False, **form):
    """Return a transcoder with random weights and normalisation; `form` as for `parts_of`."""
    rng = torch.Generator().manual_seed(seed)
    n_layers = len(window.layers)
    parts = parts_of("transcoder", n_layers=n_layers, d_dict=d_dict, **form)
    slots = n_slots(n_layers, reconstruct_input=form.get("reconstruct_input", False))
    draw = lambda *shape: 0.4 * torch.randn(*shape, generator=rng)  # noqa: E731
    weights = Weights(
        tuple(draw(p.n_features, len(p.reads) * D_MODEL) for p in parts),
        draw(d_dict),
        tuple(draw(p.n_features, len(p.writes) * D_MODEL) for p in parts),
        draw(slots * D_MODEL),
    )
    reading, writing = (
        Normalisation(draw(n, D_MODEL), 1 + draw(n).abs()) for n in (n_layers, slots)
    )
    weights = weights._replace(skips=tuple(draw(D_MODEL, D_MODEL) for _ in range(n_layers * skip)))
    ends = ("moe_in", "moe_out")
    gate = Weighted(threshold)
    return Dictionary("transcoder", window, 8, *ends, weights, reading, writing, gate, **form)
