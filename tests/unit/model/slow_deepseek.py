"""DeepSeekMoE from its published equations, token by token in float64, and checkpoints for it.

Nothing here is transformers' or ours: names and configuration are those of the published
checkpoints, equations those of Dai et al. 2024 (arXiv 2401.06066), with Llama's attention.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

TINY = {
    "architectures": ["DeepseekForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_deepseek.DeepseekConfig",
        "AutoModel": "modeling_deepseek.DeepseekModel",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekForCausalLM",
    },
    "aux_loss_alpha": 0.001,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "model_type": "deepseek",
    "moe_intermediate_size": 16,
    "moe_layer_freq": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 4,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000,
    "scoring_func": "softmax",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.36.0",
    "use_cache": True,
    "vocab_size": 96,
}


def has_experts(raw: dict, layer: int) -> bool:
    return layer >= raw["first_k_dense_replace"] and layer % raw["moe_layer_freq"] == 0


# A checkpoint under the published names


def _mlp_shapes(prefix: str, d_model: int, width: int) -> dict[str, tuple[int, ...]]:
    inwards = {f"{prefix}.{name}.weight": (width, d_model) for name in ("gate_proj", "up_proj")}
    return inwards | {f"{prefix}.down_proj.weight": (d_model, width)}


def _layer_shapes(raw: dict, layer: int) -> dict[str, tuple[int, ...]]:
    d_model, width, at = raw["hidden_size"], raw["moe_intermediate_size"], f"model.layers.{layer}"
    d_keys = d_model // raw["num_attention_heads"] * raw["num_key_value_heads"]
    rows = {"q_proj": d_model, "k_proj": d_keys, "v_proj": d_keys, "o_proj": d_model}
    shapes = {f"{at}.self_attn.{name}.weight": (n, d_model) for name, n in rows.items()}
    norms = ("input_layernorm", "post_attention_layernorm")
    shapes |= {f"{at}.{name}.weight": (d_model,) for name in norms}
    if not has_experts(raw, layer):
        return shapes | _mlp_shapes(f"{at}.mlp", d_model, raw["intermediate_size"])
    shapes[f"{at}.mlp.gate.weight"] = (raw["n_routed_experts"], d_model)
    for expert in range(raw["n_routed_experts"]):
        shapes |= _mlp_shapes(f"{at}.mlp.experts.{expert}", d_model, width)
    if raw["n_shared_experts"]:
        fused = raw["n_shared_experts"] * width
        shapes |= _mlp_shapes(f"{at}.mlp.shared_experts", d_model, fused)
    return shapes


def original_tensors(raw: dict, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return random tensors under the names of a published checkpoint."""
    ends = dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"))
    shapes = dict.fromkeys(ends, (raw["vocab_size"], raw["hidden_size"]))
    shapes["model.norm.weight"] = (raw["hidden_size"],)
    for layer in range(raw["num_hidden_layers"]):
        shapes |= _layer_shapes(raw, layer)
    rng = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    return {n: (1 + 0.3 * t if "norm" in n else 0.2 * t).to(dtype) for n, t in noise.items()}


def write_checkpoint(folder: Path, raw: dict, tensors: dict[str, Tensor]) -> None:
    """Write a folder as the published ones are; its remote code says that it was run."""
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for file in ("configuration_deepseek.py", "modeling_deepseek.py"):
        (folder / file).write_text("raise SystemExit('remote code was run')\n")


# The model


Chosen = dict[int, list[list[int]]]
"""The experts of each token, by layer."""


def slow_logits(
    raw: dict, tensors: dict[str, Tensor], token_ids: list[int], chosen: Chosen | None = None
) -> Tensor:
    """Return float64 logits (N, V) of one document; `chosen` takes the choice from the routers."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    stream = [w["model.embed_tokens.weight"][token] for token in token_ids]
    for layer in range(raw["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        read = [_norm(raw, w[f"{at}.input_layernorm.weight"], x) for x in stream]
        written = _attention(raw, w, f"{at}.self_attn", read)
        stream = [x + y for x, y in zip(stream, written, strict=True)]
        read = [_norm(raw, w[f"{at}.post_attention_layernorm.weight"], x) for x in stream]
        if has_experts(raw, layer):
            choices = chosen[layer] if chosen else [None] * len(read)
            pairs = zip(read, choices, strict=True)
            written = [_experts(raw, w, f"{at}.mlp", x, ids) for x, ids in pairs]
        else:
            written = [_mlp(w, f"{at}.mlp", x) for x in read]
        stream = [x + y for x, y in zip(stream, written, strict=True)]
    last = [_norm(raw, w["model.norm.weight"], x) for x in stream]
    return torch.stack([w["lm_head.weight"] @ x for x in last])


def _norm(raw: dict, gain: Tensor, x: Tensor) -> Tensor:
    return gain * x / math.sqrt(float((x * x).mean()) + raw["rms_norm_eps"])


def _rotated(raw: dict, head: Tensor, position: int) -> Tensor:
    """Turn the pairs (i, i + half) of a query or key by its position."""
    half, turned = len(head) // 2, head.clone()
    scaling = raw["rope_scaling"] or {"factor": 1.0}
    for i in range(half):
        angle = position / scaling["factor"] * raw["rope_theta"] ** (-i / half)
        cos, sin = math.cos(angle), math.sin(angle)
        turned[i] = head[i] * cos - head[i + half] * sin
        turned[i + half] = head[i + half] * cos + head[i] * sin
    return turned


def _heads(raw: dict, weight: Tensor, x: Tensor) -> list[Tensor]:
    return list((weight @ x).split(raw["hidden_size"] // raw["num_attention_heads"]))


def _attention(raw: dict, w: dict, at: str, read: list[Tensor]) -> list[Tensor]:
    projections = (w[f"{at}.{name}_proj.weight"] for name in "qkv")
    queries, keys, values = ([_heads(raw, p, x) for x in read] for p in projections)
    n_heads = raw["num_attention_heads"]
    n_sharing = n_heads // raw["num_key_value_heads"]
    written = []
    for here in range(len(read)):
        heads = []
        for head in range(n_heads):
            query, source = _rotated(raw, queries[here][head], here), head // n_sharing
            turned = [_rotated(raw, keys[there][source], there) for there in range(here + 1)]
            scores = torch.stack([query @ key / math.sqrt(len(key)) for key in turned]).softmax(0)
            heads.append(sum(scores[there] * values[there][source] for there in range(here + 1)))
        written.append(w[f"{at}.o_proj.weight"] @ torch.cat(heads))
    return written


def _mlp(w: dict, at: str, x: Tensor, rows: slice = slice(None)) -> Tensor:
    gate = w[f"{at}.gate_proj.weight"][rows] @ x
    inner = gate / (1 + torch.exp(-gate)) * (w[f"{at}.up_proj.weight"][rows] @ x)
    return w[f"{at}.down_proj.weight"][:, rows] @ inner


def _experts(raw: dict, w: dict, at: str, x: Tensor, chosen: list[int] | None) -> Tensor:
    """Return Eq. 9 without its residual: all shared experts, and the chosen ones by their gates."""
    width, n_shared = raw["moe_intermediate_size"], raw["n_shared_experts"] or 0
    out = torch.zeros_like(x)
    for shared in range(n_shared):
        rows = slice(shared * width, (shared + 1) * width)
        out += _mlp(w, f"{at}.shared_experts", x, rows)
    gates = _gates(raw, (w[f"{at}.gate.weight"] @ x).tolist(), chosen)
    for expert, gate in gates.items():
        out += gate * _mlp(w, f"{at}.experts.{expert}", x)
    return out


def _gates(raw: dict, logits: list[float], chosen: list[int] | None) -> dict[int, float]:
    """Return the gates of the chosen experts, Eqs. 10 and 11; `norm_topk_prob` is in code only."""
    powers = [math.exp(logit - max(logits)) for logit in logits]
    shares = {expert: power / sum(powers) for expert, power in enumerate(powers)}
    chosen = chosen or sorted(shares, key=shares.__getitem__)[-raw["num_experts_per_tok"] :]
    scale = 1.0
    if raw["norm_topk_prob"] and len(chosen) > 1:
        scale = sum(shares[expert] for expert in chosen)
    return {expert: shares[expert] / scale for expert in chosen}
