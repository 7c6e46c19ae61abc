"""A small random model, a random dictionary of it, packed text and the features of its tokens."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from planted_shards import PlantedFeatures
from transformers import AutoModelForCausalLM, FlexOlmoConfig

from deepseemoe.config import ArchitectureConfig
from deepseemoe.corpus.shards import TokenShard
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import Weighted
from deepseemoe.dictionary.layout import parts_of
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.dictionary.weights import Weights
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.model.training import new_network
from deepseemoe.names import Window

LENGTH, N_SEQUENCES, N_FEATURES = 24, 20, 12


class Case(NamedTuple):
    """A model, a dictionary of it, some text and its features."""

    model: MoeModel
    dictionary: Dictionary
    text: TokenShard
    features_TF: sp.csr_array

    @property
    def tokens(self):
        return TokenBatch.from_arrays(self.text.token_ids_SN, self.text.positions_SN)

    def decided(self, layer, edits=None):
        """Return who is chosen (T, E), and logits, in one pass over all text with edits."""
        sites = [f"{name}/L{layer:02d}" for name in ("expert_ids", "router_logits")]
        with self.model.edit(edits or {}), self.model.record(sites) as acts:
            self.model.hidden_states(self.tokens)
        ids_TK, logits_TE = (acts[site] for site in sites)
        return torch.zeros_like(logits_TE).scatter_(1, ids_TK, 1.0), logits_TE

    def subtracting(self, rows, feature, direction_D):
        z = torch.from_numpy(self.features_TF[:, [feature]].toarray())[rows]

        def edit(value_TD):
            new_TD = value_TD.clone()
            new_TD[rows] = value_TD[rows] - z * direction_D
            return new_TD

        return edit


def network(family="nanomoe", **changes):
    if family == "flex_olmo":
        return MoeModel(_noisy(AutoModelForCausalLM.from_config(
            FlexOlmoConfig(vocab_size=60, hidden_size=32, num_hidden_layers=3, num_experts=6,
                           num_attention_heads=2, num_key_value_heads=2, intermediate_size=16,
                           num_experts_per_tok=2, max_position_embeddings=64, pad_token_id=0),
            attn_implementation="sdpa",
        )))  # fmt: skip
    shape = ArchitectureConfig(
        **{"d_model": 32, "n_layers": 3, "n_heads": 2, "n_experts": 6, "d_expert": 16,
           "n_dense_layers": 0, **changes}
    )  # fmt: skip
    model = new_network(shape, vocab_size=60, max_positions=64, seed=0, tie_word_embeddings=False)
    return MoeModel(_noisy(model))


@torch.no_grad()
def _noisy(model):
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(len(name))
        scale = 1.0 if "embed" in name or "gate.weight" in name else 0.3
        noise = scale * torch.randn(parameter.shape, generator=generator)
        parameter.copy_(1 + noise / 2 if "norm" in name else noise)
    return model


def text():
    rng = np.random.default_rng(0)
    n_tokens = LENGTH * N_SEQUENCES
    document_T = np.repeat(np.arange(n_tokens), rng.integers(5, 40, n_tokens))[:n_tokens]
    place_T = np.arange(n_tokens)
    opens = (place_T % LENGTH == 0) | (np.diff(document_T, prepend=-1) != 0)
    positions_T = place_T - np.maximum.accumulate(np.where(opens, place_T, 0))
    arrays = rng.integers(60, size=n_tokens), document_T, positions_T
    return TokenShard(*(a.astype(np.uint32).reshape(-1, LENGTH) for a in arrays))


def dictionary(kind, window):
    """Return a random dictionary whose layers differ in mean and scale."""
    rng, n_layers = torch.Generator().manual_seed(1), len(window.layers)
    parts = parts_of(kind, n_layers=n_layers, d_dict=N_FEATURES)
    encoders = [torch.randn(p.n_features, 32 * len(p.reads), generator=rng) / 6 for p in parts]
    decoders = [torch.randn(p.n_features, 32 * len(p.writes), generator=rng) / 3 for p in parts]
    scaling = Normalisation(
        torch.randn(n_layers, 32, generator=rng), torch.rand(n_layers, generator=rng) + 0.5
    )
    reads, writes = ("resid_post", "resid_post") if kind == "crosscoder" else ("moe_in", "moe_out")
    bias, zeros = torch.zeros(N_FEATURES), torch.zeros(32 * n_layers)
    weights = Weights(tuple(encoders), bias, tuple(decoders), zeros)
    return Dictionary(kind, window, 3, reads, writes, weights, scaling, scaling, Weighted(2.0))


def opened_shards(one, n_shards):
    """Return the token shards of a case, and a function that opens the features of each."""
    edges = np.linspace(0, N_SEQUENCES, n_shards + 1).astype(int)
    shards = [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    texts = [TokenShard(*(array[shard] for array in one.text)) for shard in shards]

    def opened(place):
        rows = slice(shards[place].start * LENGTH, shards[place].stop * LENGTH)
        ids, documents, positions = (array.ravel() for array in texts[place])
        return PlantedFeatures(one.features_TF[rows], documents, positions > 0, ids, positions)

    return texts, opened


def case(kind="crosscoder", window=Window(0, 1), **changes):  # noqa: B008 (a constant)
    model, learned, packed = network(**changes), dictionary(kind, window), text()
    tokens = TokenBatch.from_arrays(packed.token_ids_SN, packed.positions_SN)
    with model.record(learned.read_names) as acts:
        model.hidden_states(tokens)
    x_TLD = torch.stack([acts[name] for name in learned.read_names], 1)
    is_valid = packed.positions_SN.ravel() > 0
    codes = learned.encode(x_TLD)
    parts = codes.values, codes.features, codes.offsets
    all_TF = sp.csr_array(parts, shape=(is_valid.size, N_FEATURES))
    features_TF = sp.csr_array(sp.diags_array(is_valid.astype(np.float32)) @ all_TF)
    features_TF.eliminate_zeros()
    features_TF.sort_indices()
    return Case(model, learned, packed, features_TF)
