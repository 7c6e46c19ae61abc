"""Tiny random models, one for each family, whose biases, sinks and norms all matter."""

import torch
import transformers as tr

from deepseemoe.model.deepseek.configuration import DeepseekConfig
from deepseemoe.model.deepseek.modeling import register_deepseek
from deepseemoe.model.nanomoe.configuration import NanoMoeConfig
from deepseemoe.model.nanomoe.modeling import register_nanomoe
from deepseemoe.model.sink_attention import register_sink_attention
from deepseemoe.model.spec import SPECS
from deepseemoe.model.tokens import TokenBatch

VOCAB = 96
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
    "num_experts_per_tok": 3,
}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
DENSE_FIRST = {
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "first_k_dense_replace": 1,
}
WINDOW = {"sliding_window": 8}

FAMILIES = {
    "gpt_oss": (
        tr.GptOssConfig,
        {**WINDOW, "head_dim": 16, "intermediate_size": 24, "num_local_experts": 8},
    ),
    "flex_olmo": (tr.FlexOlmoConfig, {"intermediate_size": 24, "num_experts": 7}),
    "olmoe": (tr.OlmoeConfig, {"intermediate_size": 24, "num_experts": 8}),
    "mixtral": (
        tr.MixtralConfig,
        {**WINDOW, "intermediate_size": 24, "num_local_experts": 8, "router_jitter_noise": 0.1},
    ),
    "qwen3_moe": (
        tr.Qwen3MoeConfig,
        {
            **WINDOW,
            "use_sliding_window": True,
            "intermediate_size": 48,
            "moe_intermediate_size": 16,
            "head_dim": 16,
            "num_experts": 8,
            "norm_topk_prob": True,
            "mlp_only_layers": [0],
        },
    ),
    "deepseek": (DeepseekConfig, {**DENSE_FIRST, "n_shared_experts": 2}),
    "deepseek_v2": (
        tr.DeepseekV2Config,
        {
            **LATENT,
            **DENSE_FIRST,
            "q_lora_rank": None,
            "n_shared_experts": 2,
            "topk_method": "group_limited_greedy",
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 1.5,
        },
    ),
    "deepseek_v3": (
        tr.DeepseekV3Config,
        {
            **LATENT,
            **DENSE_FIRST,
            "q_lora_rank": 16,
            "n_shared_experts": 1,
            "n_group": 4,
            "topk_group": 2,
        },
    ),
    "glm4_moe": (tr.Glm4MoeConfig, {**DENSE_FIRST, "n_shared_experts": 1, "head_dim": 16}),
    "ernie4_5_moe": (
        tr.Ernie4_5_MoeConfig,
        {
            "intermediate_size": 48,
            "moe_intermediate_size": 16,
            "moe_num_experts": 8,
            "moe_num_shared_experts": 2,
            "moe_k": 3,
            "moe_layer_start_index": 1,
            "tie_word_embeddings": False,
        },
    ),
    "llama4_text": (
        tr.Llama4TextConfig,
        {
            "intermediate_size": 16,
            "intermediate_size_mlp": 48,
            "head_dim": 16,
            "num_local_experts": 8,
            "moe_layers": [1, 2],
            "no_rope_layers": [1, 0, 1],
            "attention_chunk_size": 8,
        },
    ),
    "nanomoe": (
        NanoMoeConfig,
        {
            "intermediate_size": 48,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
            "n_shared_experts": 2,
        },
    ),
}


def tiny_config(family: str, **changes) -> tr.PreTrainedConfig:
    config_class, own = FAMILIES[family]
    common = {k: v for k, v in COMMON.items() if k != "num_experts_per_tok" or "moe_k" not in own}
    return config_class(**{**common, **own, **changes})


def tiny_network(family: str, *, dtype: torch.dtype = torch.float32, **changes):
    """Return a model with its head; keys of its configuration can be changed."""
    kernels = {key: changes.pop(key) for key in ("attn_implementation",) if key in changes}
    return network_of(tiny_config(family, **changes), dtype, **kernels)


def network_of(config: tr.PreTrainedConfig, dtype: torch.dtype = torch.float32, **kernels):
    """Return a random model; weights that start at 0 or 1 get noise, for tests to see."""
    register_nanomoe()
    register_deepseek()
    register_sink_attention()
    kernel = SPECS[config.model_type].attention_kernel or "sdpa"
    options = {"attn_implementation": kernel, **kernels}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = tr.AutoModelForCausalLM.from_config(config, **options)
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if "norm" in name or "bias" in name or "sinks" in name:
                with torch.no_grad():
                    tensor.add_(0.3 * torch.randn_like(tensor))
    return network.to(dtype)


def tiny_batch(n_sequences: int = 2, length: int = 24, seed: int = 1) -> TokenBatch:
    """Return sequences of one document each."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (n_sequences, length), generator=rng)
    return TokenBatch(ids, torch.arange(length).expand(n_sequences, -1))


def packed_batch(lengths: list[list[int]], seed: int = 1) -> TokenBatch:
    """Return sequences that hold documents of these lengths."""
    rng = torch.Generator().manual_seed(seed)
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in lengths])
    return TokenBatch(torch.randint(3, VOCAB, positions.shape, generator=rng), positions)
