"""Random configurations of each family, for claims that must not hang on one shape.

All that a configuration can vary about widths, attention, groups, dense layers and routers does.
"""

from random import Random

Keys = dict[str, object]


def random_changes(family: str, seed: int) -> Keys:
    """Return keys for `tiny_network`, always the same for a seed; some layer has experts."""
    rng = Random(f"{family} {seed}")
    keys = {
        "num_hidden_layers": rng.randint(2, 5),
        "tie_word_embeddings": rng.random() < 0.5,
        "rms_norm_eps": rng.choice([1e-6, 1e-3]),
        **({"attn_implementation": "eager"} if flag(rng) else {}),
    }
    return keys | DRAWS[family](rng, keys["num_hidden_layers"])


def flag(rng: Random) -> bool:
    return rng.random() < 0.5


def heads(rng: Random, *, is_free: bool = True, multiple: int = 2) -> Keys:
    """Return heads and widths; without a `head_dim` of its own a model is as wide as its heads."""
    n_heads = rng.choice([1, 2, 3, 4, 6])
    head_dim = multiple * rng.randint(1 if multiple > 2 else 2, 12 // multiple)
    n_groups = rng.choice([n for n in (1, 2, 3, 6) if n_heads % n == 0])
    keys = {"num_attention_heads": n_heads, "num_key_value_heads": n_heads // n_groups}
    if not is_free:
        return keys | {"hidden_size": n_heads * head_dim}
    return keys | {"head_dim": head_dim, "hidden_size": rng.choice([12, 27, 32, 50])}


def latent(rng: Random) -> Keys:
    """Return the sizes of latent attention, where all heads have keys of their own."""
    n_heads = rng.choice([1, 2, 3])
    return {
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_heads,
        "hidden_size": n_heads * rng.choice([9, 16, 20]),
        "q_lora_rank": rng.choice([None, 5, 16]),
        "kv_lora_rank": rng.choice([6, 16]),
        "qk_nope_head_dim": rng.choice([6, 8]),
        "qk_rope_head_dim": rng.choice([4, 6]),
        "v_head_dim": rng.choice([7, 8]),
        "attention_bias": flag(rng),
    }


def experts(rng: Random, number: str, width: str, per_token: str = "num_experts_per_tok") -> Keys:
    n_experts = rng.randint(2, 13)
    return {
        number: n_experts,
        per_token: rng.choice([1, min(2, n_experts), rng.randint(1, n_experts), n_experts]),
        width: rng.choice([5, 8, 16]),
    }


def grouped_experts(rng: Random, *, least: int) -> Keys:
    """Return experts in groups of at least `least`, and how many of these a token may use."""
    n_groups, size = rng.choice([1, 2, 3, 5]), rng.randint(max(least, 2), 6)
    n_kept = rng.randint(1, n_groups)
    return {
        "n_routed_experts": n_groups * size,
        "n_group": n_groups,
        "topk_group": n_kept,
        "num_experts_per_tok": rng.randint(1, n_kept * size),
        "moe_intermediate_size": rng.choice([5, 8, 16]),
        "routed_scaling_factor": rng.choice([1.0, 2.5]),
        "norm_topk_prob": flag(rng),
    }


def gpt_oss(rng: Random, n_layers: int) -> Keys:
    kinds = ("sliding_attention", "full_attention")
    return {
        **heads(rng),
        **experts(rng, "num_local_experts", "intermediate_size"),
        "layer_types": [rng.choice(kinds) for _ in range(n_layers)],
        "sliding_window": rng.randint(1, 12),
        "attention_bias": flag(rng),
        "swiglu_limit": rng.choice([0.5, 7.0]),
    }


def flex_olmo(rng: Random, n_layers: int) -> Keys:
    return {
        **heads(rng, is_free=False),
        **experts(rng, "num_experts", "intermediate_size"),
        "norm_topk_prob": flag(rng),
        "attention_bias": flag(rng),
    }


def olmoe(rng: Random, n_layers: int) -> Keys:
    return {**flex_olmo(rng, n_layers), "clip_qkv": rng.choice([None, 0.5])}


def mixtral(rng: Random, n_layers: int) -> Keys:
    return {
        **heads(rng),
        **experts(rng, "num_local_experts", "intermediate_size"),
        "sliding_window": rng.choice([None, 1, 5]),
    }


def qwen3_moe(rng: Random, n_layers: int) -> Keys:
    step = rng.randint(1, n_layers)
    sparse = [n for n in range(n_layers) if (n + 1) % step == 0]
    return {
        **heads(rng),
        **experts(rng, "num_experts", "moe_intermediate_size"),
        "decoder_sparse_step": step,
        "mlp_only_layers": rng.sample(range(n_layers), rng.randint(0, len(sparse) - 1)),
        "use_sliding_window": flag(rng),
        "sliding_window": rng.randint(1, 12),
        "norm_topk_prob": flag(rng),
        "attention_bias": flag(rng),
    }


def deepseek(rng: Random, n_layers: int) -> Keys:
    last = rng.randrange(n_layers)
    return {
        **heads(rng, is_free=False),
        **experts(rng, "n_routed_experts", "moe_intermediate_size"),
        "first_k_dense_replace": rng.randint(0, last),
        "moe_layer_freq": rng.choice([n for n in (1, 2, 3) if last % n == 0]),
        "n_shared_experts": rng.choice([None, 0, 1, 3]),
        "norm_topk_prob": flag(rng),
        "attention_bias": flag(rng),
        "mlp_bias": flag(rng),
    }


def deepseek_v2(rng: Random, n_layers: int) -> Keys:
    return {
        **latent(rng),
        **grouped_experts(rng, least=1),
        "topk_method": rng.choice(["greedy", "group_limited_greedy"]),
        "first_k_dense_replace": rng.randint(0, n_layers - 1),
        "n_shared_experts": rng.randint(1, 3),
        "mlp_bias": flag(rng),
    }


def deepseek_v3(rng: Random, n_layers: int) -> Keys:
    return {
        **latent(rng),
        **grouped_experts(rng, least=2),
        "first_k_dense_replace": rng.randint(0, n_layers - 1),
        "n_shared_experts": rng.randint(1, 3),
        "rope_interleave": flag(rng),
    }


def glm4_moe(rng: Random, n_layers: int) -> Keys:
    return {
        **heads(rng, multiple=4),
        **grouped_experts(rng, least=2),
        "first_k_dense_replace": rng.randint(0, n_layers - 1),
        "n_shared_experts": rng.randint(1, 3),
        "use_qk_norm": flag(rng),
        "attention_bias": flag(rng),
    }


def ernie4_5_moe(rng: Random, n_layers: int) -> Keys:
    first, last = sorted(rng.choices(range(n_layers), k=2))
    return {
        **heads(rng, is_free=False),
        **experts(rng, "moe_num_experts", "moe_intermediate_size", "moe_k"),
        "moe_layer_start_index": first,
        "moe_layer_end_index": rng.choice([-1, last]),
        "moe_layer_interval": rng.choice([n for n in range(1, last + 2) if (last + 1) % n == 0]),
        "moe_num_shared_experts": rng.randint(0, 3),
        "use_bias": flag(rng),
    }


def llama4_text(rng: Random, n_layers: int) -> Keys:
    some = rng.sample(range(n_layers), rng.randint(1, n_layers))
    return {
        **heads(rng),
        **experts(rng, "num_local_experts", "intermediate_size"),
        "moe_layers": rng.choice([None, some]),
        "interleave_moe_layer_step": rng.randint(1, n_layers),
        "no_rope_layers": [rng.randint(0, 1) for _ in range(n_layers)],
        "attention_chunk_size": rng.choice([None, 1, 5, 12]),
        "use_qk_norm": flag(rng),
        "attention_bias": flag(rng),
    }


def nanomoe(rng: Random, n_layers: int) -> Keys:
    return {
        **heads(rng),
        **experts(rng, "num_experts", "moe_intermediate_size"),
        "first_k_dense_replace": rng.randint(0, n_layers - 1),
        "n_shared_experts": rng.randint(0, 3),
        "norm_topk_prob": flag(rng),
        "attention_bias": flag(rng),
        "mlp_bias": flag(rng),
    }


DRAWS = {
    "gpt_oss": gpt_oss,
    "flex_olmo": flex_olmo,
    "olmoe": olmoe,
    "mixtral": mixtral,
    "qwen3_moe": qwen3_moe,
    "deepseek": deepseek,
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "glm4_moe": glm4_moe,
    "ernie4_5_moe": ernie4_5_moe,
    "llama4_text": llama4_text,
    "nanomoe": nanomoe,
}
