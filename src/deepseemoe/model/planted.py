"""NanoMoE with hand-set weights for the planted language: its feature-expert map is known.

Nothing is learnt. Routers read class directions and slots (see `planted_world`). Each expert has
one hidden unit for every class that calls it, which writes that class's direction of the layer, and
one that writes the expert's signature on all its tokens. Classes that call no routed expert are
written by the shared experts where the model has them. Attention averages the words seen so far,
faintly: a nuisance that touches nothing a router reads. The head knows the language's rough
bigrams, so that cross-entropy means something.

What a class calls is then measured, not assumed: the experts that routers choose on its tokens, and
do not choose once the class's direction is taken out of what they read.

Axes: V vocabulary, C classes, E experts, L layers, D d_model, K top_k.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn
from transformers import AutoTokenizer

from deepseemoe.config import ModelConfig
from deepseemoe.corpus.planted import planted_classes
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.nanomoe.modeling import NanoMoeBlock, NanoMoeForCausalLM
from deepseemoe.model.planted_world import Floats, World, build_world, embeddings_of
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.model.training import new_network, save_network
from deepseemoe.names import layer_name
from deepseemoe.runtime.files import growing, write_json

FORMAT = 1
ROUTER_GAIN = 0.5  # logits of about 4 for a called expert, 2 for a slot, 0 for the others
WRITTEN, SIGNATURE = 0.6, 0.3  # lengths that experts write, about
NUISANCE = 0.05  # of attention
CALLED = 0.5  # rise of P(expert | class) from which the class counts as calling the expert


def plant_model(config: ModelConfig, *, tokenizer_folder: Path, folder: Path, seed: int) -> None:
    """Write a planted model folder, with `truth.json` and `directions.safetensors`.

    `truth.json` has, for each layer and class: `reads`, the experts that the class calls;
    `p_expert` and `p_expert_without`, the share of its words that choose each expert, and the same
    without the class's direction; `writes`, the experts that write the class's direction (empty:
    the shared experts do, or nobody). `directions.safetensors` holds `class` (C, D), `written`
    (L, C, D) and `signature` (L, E, D), unit vectors in the order of `classes`.

    Raises ValueError where the tokenizer is not the planted language's, or the architecture has no
    room; see `build_world`.
    """
    shape = config.architecture
    if shape.routing != "token":
        raise ValueError(
            f"a planted model routes tokens; architecture.routing is {shape.routing!r}"
        )
    class_of_token, vocab_size = _read_vocabulary(tokenizer_folder)
    world = build_world(shape, class_of_token=class_of_token, vocab_size=vocab_size, seed=seed)
    network = new_network(
        shape, vocab_size=vocab_size, max_positions=1024, seed=seed, tie_word_embeddings=False
    )
    _set_weights(network, world)
    truth = {"format": FORMAT, "seed": seed, **_measure(MoeModel(network), world)}
    with growing(folder) as partial:
        save_network(network, partial)
        save_file(
            {
                "class": world.class_CD,
                "written": world.written_LCD,
                "signature": world.signature_LED,
            },
            partial / "directions.safetensors",
            {"classes": " ".join(world.classes)},
        )
        write_json(partial / "truth.json", truth)


def _read_vocabulary(tokenizer_folder: Path) -> tuple[dict[int, str], int]:
    """Return the class of each token that is a word, and the size of the vocabulary."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
    ids, classes = tokenizer.get_vocab(), planted_classes()
    missing = [word for word in classes if word not in ids]
    if missing:
        raise ValueError(
            f"{tokenizer_folder}: not the planted language's tokenizer, it lacks {missing[0]!r}; "
            "use corpus.source planted"
        )
    return {ids[word]: name for word, name in classes.items()}, len(tokenizer)


@torch.no_grad()
def _set_weights(network: NanoMoeForCausalLM, world: World) -> None:
    """Replace all weights; what is not set here is zero, norms' gains are one."""
    for name, parameter in network.named_parameters():
        parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
    network.model.embed_tokens.weight.copy_(_tensor(embeddings_of(world)))
    network.lm_head.weight.copy_(_tensor(_head(world)))
    for number, layer in enumerate(network.model.layers):
        _set_attention(layer.self_attn, world)
        if layer.is_moe:
            _set_block(layer.mlp, world, number)


def _set_attention(attention: nn.Module, world: World) -> None:
    """Average, evenly over the segment so far, what tokens have of words; nothing else passes."""
    words_WD = _tensor(world.words_WD)
    attention.v_proj.weight[: len(words_WD)] = words_WD
    attention.o_proj.weight[:, : len(words_WD)] = NUISANCE * words_WD.T


def _set_block(block: NanoMoeBlock, world: World, layer: int) -> None:
    calls, written_CD = world.calls[layer], _tensor(world.written_LCD[layer])
    class_CD, constant_D = _tensor(world.class_CD), _tensor(world.constant_D)
    block.gate.weight[world.expert_of_slot_LE[layer]] = ROUTER_GAIN * _tensor(world.slot_ED)
    units: dict[int, list[tuple[Tensor, Tensor]]] = {
        expert: [(constant_D, SIGNATURE * _tensor(signature_D))]
        for expert, signature_D in enumerate(world.signature_LED[layer])
    }
    for number, name in enumerate(world.classes):
        for expert in calls[name]:
            block.gate.weight[expert] += ROUTER_GAIN * class_CD[number]
            units[expert].append((class_CD[number], WRITTEN * written_CD[number]))
    d_expert = block.experts.down_proj.shape[-1]
    for expert, pairs in units.items():
        _set_units(
            block.experts.gate_up_proj[expert, :d_expert],
            block.experts.gate_up_proj[expert, d_expert:],
            block.experts.down_proj[expert],
            pairs,
        )
    if block.shared_experts is not None:
        shared = block.shared_experts
        silent = [number for number, name in enumerate(world.classes) if not calls[name]]
        pairs = [(class_CD[number], WRITTEN * written_CD[number]) for number in silent]
        weights = (shared.gate_proj.weight, shared.up_proj.weight, shared.down_proj.weight)
        _set_units(*weights, pairs)


def _set_units(gate: Tensor, up: Tensor, down: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Make a hidden unit of each (read, written): it writes about `written` where `read` is.

    Without `read` the unit is exactly silent: silu(0) * 0. With it, a normed input holds `read`
    about 8 times over, silu(4) * 2 is about 8, and an eighth of that is 1.
    """
    if len(pairs) > len(gate):
        raise ValueError(f"d_expert {len(gate)} is too small to plant in; at least {len(pairs)}")
    for unit, (read_D, written_D) in enumerate(pairs):
        gate[unit], up[unit], down[:, unit] = read_D / 2, read_D / 4, written_D / 8


def _head(world: World) -> Floats:
    """Return head rows (V, D): words of a class follow each other, spans follow triggers."""
    rows_VD = np.tile(0.2 * world.constant_D, (len(world.word_VD), 1))
    for token, name in world.class_of_token.items():
        kind, _, which = name.partition(":")
        before = {"domain": [name], "span": [name, f"trigger:{which}"]}.get(kind, [])
        for other in before:
            rows_VD[token] += 0.5 * world.class_CD[world.classes.index(other)]
        if before:
            rows_VD[token] -= 0.2 * world.constant_D
    return rows_VD.astype("f4")


def _measure(model: MoeModel, world: World) -> dict[str, Any]:
    """Return the truth, measured on every word alone."""
    n_words = len(world.word_VD)
    tokens = TokenBatch(torch.arange(n_words)[:, None], torch.zeros(n_words, 1, dtype=torch.int64))
    with model.record([f"moe_in/{layer_name(n)}" for n in model.moe_layers]) as acts:
        model.hidden_states(tokens)
    truth: dict[str, Any] = {"classes": list(world.classes), "layers": {}}
    for layer in model.moe_layers:
        x_VD = acts[f"moe_in/{layer_name(layer)}"]
        at = {"reads": {}, "writes": {}, "p_expert": {}, "p_expert_without": {}}
        for number, name in enumerate(world.classes):
            words = [token for token, other in world.class_of_token.items() if other == name]
            x_TD, direction_D = x_VD[words], _tensor(world.class_CD[number])
            p_E = _shares(model, layer, x_TD)
            without_E = _shares(model, layer, x_TD - (x_TD @ direction_D)[:, None] * direction_D)
            at["reads"][name] = np.flatnonzero(p_E - without_E >= CALLED).tolist()
            at["writes"][name] = sorted(world.calls[layer][name])
            at["p_expert"][name] = p_E.round(6).tolist()
            at["p_expert_without"][name] = without_E.round(6).tolist()
        truth["layers"][layer_name(layer)] = at
    return truth


def _shares(model: MoeModel, layer: int, x_TD: Tensor) -> Floats:
    """Return the share of tokens that choose each expert (E,)."""
    ids_TK = model.route(layer, x_TD).ids_TK
    return np.bincount(ids_TK.flatten().numpy(), minlength=model.n_experts) / len(x_TD)


def _tensor(values: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
