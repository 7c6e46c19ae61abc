"""DeepSeekMoE (Dai et al. 2024, arXiv 2401.06066): Llama with shared and routed experts.

The published code is Llama's but for the MLPs, so this is transformers' Llama with the MLPs of some
layers replaced. Attention rotates halves, as checkpoints have it: their rows need no permutation.
Experts are transformers' own, fused; the conversion between a checkpoint's names, one for each
expert, and the fused ones is that of its other DeepSeek models.

Axes: S sequences, N sequence length, D d_model, T = S * N tokens, E experts, K top_k.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    LlamaForCausalLM,
    LlamaModel,
    LlamaPreTrainedModel,
    initialization,
)
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Experts, DeepseekV2MLP

from deepseemoe.model.deepseek.configuration import DeepseekConfig


class DeepseekRouter(nn.Module):
    """s = softmax(x W^T), Eq. 11; the K largest are the gates, Eq. 10.

    All in the model's type, as published: in bfloat16 another precision would choose other experts
    where two are nearly equal. Gates sum to 1 only under `norm_topk_prob`, and only where K > 1.
    """

    def __init__(self, config: DeepseekConfig):
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.norm_topk_prob = config.norm_topk_prob
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (T, E), weights (T, K) and ids (T, K), in no order, for (S, N, D)."""
        logits_TE = F.linear(hidden.reshape(-1, hidden.shape[-1]), self.weight)
        weights_TK, ids_TK = logits_TE.softmax(-1).topk(self.top_k, -1, sorted=False)
        if self.norm_topk_prob and self.top_k > 1:
            weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
        return logits_TE, weights_TK, ids_TK


class DeepseekMoeBlock(nn.Module):
    """sum_i gate_i FFN_i(x) + sum_s FFN_s(x), Eq. 9 without its residual term.

    The shared experts are one MLP of their joint width, which is the same function.
    """

    def __init__(self, config: DeepseekConfig):
        super().__init__()
        self.gate = DeepseekRouter(config)
        self.experts = DeepseekV2Experts(config)
        d_shared = (config.n_shared_experts or 0) * config.moe_intermediate_size
        shared = DeepseekV2MLP(config, intermediate_size=d_shared) if d_shared else None
        self.shared_experts = shared

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the block's contribution (S, N, D) to the residual stream."""
        _, weights_TK, ids_TK = self.gate(hidden)
        rows_TD = hidden.reshape(-1, hidden.shape[-1])
        out = self.experts(rows_TD, ids_TK, weights_TK).view(hidden.shape)
        return out if self.shared_experts is None else out + self.shared_experts(hidden)


class DeepseekPreTrainedModel(LlamaPreTrainedModel):
    """Initialisation and abilities common to the model with and without its head."""

    config: DeepseekConfig
    # transformers looks for the decorator of the experts in this file, where it is not
    _can_set_experts_implementation_cached_value = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (DeepseekV2Experts, DeepseekRouter)):
            for weight in module.parameters(recurse=False):
                initialization.normal_(weight, mean=0.0, std=self.config.initializer_range)


class DeepseekModel(DeepseekPreTrainedModel, LlamaModel):
    """The decoder without its head."""

    def __init__(self, config: DeepseekConfig):
        super().__init__(config)
        for number, layer in enumerate(self.layers):
            if config.has_experts(number):
                layer.mlp = DeepseekMoeBlock(config)
        self.post_init()


class DeepseekForCausalLM(DeepseekPreTrainedModel, LlamaForCausalLM):
    """The decoder with its head."""

    def __init__(self, config: DeepseekConfig):
        LlamaPreTrainedModel.__init__(self, config)  # LlamaForCausalLM's would make a Llama first
        self.model = DeepseekModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


def register_deepseek() -> None:
    """Teach transformers' Auto classes the type `deepseek`; a second call changes nothing."""
    AutoConfig.register("deepseek", DeepseekConfig, exist_ok=True)
    AutoModel.register(DeepseekConfig, DeepseekModel, exist_ok=True)
    AutoModelForCausalLM.register(DeepseekConfig, DeepseekForCausalLM, exist_ok=True)
    names = get_checkpoint_conversion_mapping("deepseek_v2")
    register_checkpoint_conversion_mapping("deepseek", names, overwrite=True)
