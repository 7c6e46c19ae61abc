"""The modules of NanoMoE, named as in OLMoE and DeepSeek: `mlp.gate`, `mlp.experts`.

A pre-norm decoder with Llama's attention, rotary positions and gated MLPs. Attention never crosses
the segments of a packed sequence, which open where positions restart. Routers return rows for all
tokens whatever they read, so everything downstream treats the three kinds of routing alike.

Axes: S sequences, N sequence length, D d_model, T = S * N tokens, E experts, K top_k.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedModel,
    initialization,
)
from transformers.activations import ACT2FN
from transformers.integrations import use_experts_implementation
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from deepseemoe.model.nanomoe.configuration import NanoMoeConfig
from deepseemoe.model.nanomoe.pooling import pool, pooling_matrix


class NanoMoeRouter(nn.Module):
    """p = softmax(x W^T) in float32; the K largest, scaled to sum 1 where `norm_topk_prob`."""

    def __init__(self, config: NanoMoeConfig):
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.norm_topk_prob = config.norm_topk_prob
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (T, E), weights (T, K) and ids (T, K) for router inputs (S, N, D)."""
        logits_TE = F.linear(hidden.reshape(-1, hidden.shape[-1]), self.weight)
        weights_TK, ids_TK = logits_TE.float().softmax(-1).topk(self.top_k, -1)
        if self.norm_topk_prob:
            weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
        return logits_TE, weights_TK.to(logits_TE.dtype), ids_TK


@use_experts_implementation
class NanoMoeExperts(nn.Module):
    """Gated MLPs, down(silu(gate(x)) * up(x)), fused over experts; `forward` is the eager way."""

    def __init__(self, config: NanoMoeConfig):
        super().__init__()
        self.num_experts = config.num_experts
        self.act_fn = ACT2FN[config.hidden_act]
        d_model, d_expert = config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(config.num_experts, 2 * d_expert, d_model))
        self.down_proj = nn.Parameter(torch.empty(config.num_experts, d_model, d_expert))

    def forward(self, hidden: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum (T, D) of the chosen experts' outputs."""
        out_TD = torch.zeros_like(hidden)
        for expert in range(self.num_experts):
            rows, slots = torch.where(ids == expert)
            inner = self._apply_gate(F.linear(hidden[rows], self.gate_up_proj[expert]))
            written = F.linear(inner, self.down_proj[expert]) * weights[rows, slots, None]
            out_TD = out_TD.index_add(0, rows, written.to(out_TD.dtype))
        return out_TD


class NanoMoeSharedExperts(LlamaMLP):
    """The shared experts as one gated MLP of their joint width, which is the same function."""

    def __init__(self, config: NanoMoeConfig):
        nn.Module.__init__(self)
        d_model, d_inner = (
            config.hidden_size,
            config.n_shared_experts * config.moe_intermediate_size,
        )
        self.gate_proj = nn.Linear(d_model, d_inner, bias=config.mlp_bias)
        self.up_proj = nn.Linear(d_model, d_inner, bias=config.mlp_bias)
        self.down_proj = nn.Linear(d_inner, d_model, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]


class NanoMoeBlock(nn.Module):
    """Routed plus shared experts; the router may read a pooled input, the experts never do."""

    def __init__(self, config: NanoMoeConfig):
        super().__init__()
        self.gate = NanoMoeRouter(config)
        self.experts = NanoMoeExperts(config)
        self.shared_experts = NanoMoeSharedExperts(config) if config.n_shared_experts else None

    def forward(self, hidden: Tensor, pooling: Tensor | None = None) -> Tensor:
        """Return the block's contribution (S, N, D) to the residual stream."""
        _, weights_TK, ids_TK = self.gate(pool(hidden, pooling))
        rows_TD = hidden.reshape(-1, hidden.shape[-1])
        out = self.experts(rows_TD, ids_TK, weights_TK).view(hidden.shape)
        return out if self.shared_experts is None else out + self.shared_experts(hidden)


class NanoMoeDecoderLayer(nn.Module):
    """Attention, then experts or a dense MLP, each after a norm and added to the residual."""

    def __init__(self, config: NanoMoeConfig, layer_idx: int):
        super().__init__()
        self.is_moe = layer_idx >= config.first_k_dense_replace
        self.self_attn = LlamaAttention(config, layer_idx)
        self.mlp = NanoMoeBlock(config) if self.is_moe else LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden: Tensor, pooling: Tensor | None = None, **attention) -> Tensor:
        """Return the residual stream (S, N, D) after this layer."""
        hidden = hidden + self.self_attn(hidden_states=self.input_layernorm(hidden), **attention)[0]
        moe_in = self.post_attention_layernorm(hidden)
        return hidden + (self.mlp(moe_in, pooling) if self.is_moe else self.mlp(moe_in))


class NanoMoePreTrainedModel(PreTrainedModel):
    """Initialisation and abilities common to the model with and without its head."""

    config: NanoMoeConfig
    base_model_prefix = "model"
    _no_split_modules = ["NanoMoeDecoderLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "router_logits": OutputRecorder(NanoMoeRouter, index=0),
        "hidden_states": NanoMoeDecoderLayer,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (NanoMoeExperts, NanoMoeRouter)):
            for weight in module.parameters(recurse=False):
                initialization.normal_(weight, mean=0.0, std=self.config.initializer_range)


class NanoMoeModel(NanoMoePreTrainedModel):
    """The decoder without its head."""

    def __init__(self, config: NanoMoeConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            NanoMoeDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs,
    ) -> MoeModelOutputWithPast:
        """Return the normed residual stream; positions (S, N) restart where a document opens."""
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(hidden.shape[1], device=hidden.device)
        position_ids = position_ids.expand(hidden.shape[:2])
        mask = create_causal_mask(self.config, hidden, attention_mask, None, position_ids)
        is_token = (
            attention_mask if attention_mask is not None and attention_mask.ndim == 2 else None
        )
        pooling = pooling_matrix(self.config.routing, position_ids, is_token)
        angles = self.rotary_emb(hidden, position_ids)
        for layer in self.layers:
            hidden = layer(hidden, pooling, attention_mask=mask, position_embeddings=angles)
        return MoeModelOutputWithPast(last_hidden_state=self.norm(hidden))


class NanoMoeForCausalLM(NanoMoePreTrainedModel, GenerationMixin):
    """The decoder with its head, which shares the embedding's weight unless untied."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: NanoMoeConfig):
        super().__init__(config)
        self.model = NanoMoeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs,
    ) -> MoeCausalLMOutputWithPast:
        """Return logits (S, N, V), or only the last `logits_to_keep`, and the loss of `labels`."""
        out = self.model(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return MoeCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=out.hidden_states,
            router_logits=out.router_logits,
        )


def register_nanomoe() -> None:
    """Teach transformers' Auto classes the type `nanomoe`; a second call changes nothing."""
    AutoConfig.register("nanomoe", NanoMoeConfig, exist_ok=True)
    AutoModel.register(NanoMoeConfig, NanoMoeModel, exist_ok=True)
    AutoModelForCausalLM.register(NanoMoeConfig, NanoMoeForCausalLM, exist_ok=True)
