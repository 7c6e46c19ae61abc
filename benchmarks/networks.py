"""Models with random weights, for measuring speed: what they compute costs the same as the real."""

import torch
import transformers as tr
from transformers.initialization import no_init_weights

from deepseemoe.config import ArchitectureConfig
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.sink_attention import register_sink_attention
from deepseemoe.model.training import new_network


def tiny(vocab_size: int = 4096) -> MoeModel:
    """Return a NanoMoE of the embedded default's size."""
    shape = ArchitectureConfig()
    return MoeModel(new_network(shape, vocab_size=vocab_size, max_positions=1024, seed=0))


def gpt_oss(n_layers: int, device: str) -> MoeModel:
    """Return the first layers of gpt-oss-20b, without its head, in bfloat16."""
    register_sink_attention()
    config = tr.GptOssConfig(
        num_hidden_layers=n_layers,
        hidden_size=2880,
        intermediate_size=2880,
        num_local_experts=32,
        num_experts_per_tok=4,
        num_attention_heads=64,
        num_key_value_heads=8,
        head_dim=64,
        sliding_window=128,
        vocab_size=201_088,
    )
    torch.manual_seed(0)
    with torch.device(device), no_init_weights():
        network = tr.AutoModel.from_config(
            config, dtype=torch.bfloat16, attn_implementation="sink_attn"
        )
    for name, parameter in network.named_parameters():
        ones = "norm" in name
        parameter.data.fill_(1.0) if ones else parameter.data.normal_(std=0.02)
    return MoeModel(network)
