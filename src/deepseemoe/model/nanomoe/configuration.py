"""The shape of NanoMoE in the words of the transformers library."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

ROUTINGS = ("token", "sequence", "prefix")


@strict
class NanoMoeConfig(PreTrainedConfig):
    """Sizes and choices of NanoMoE, as `config.json` holds them.

    `n_shared_experts` experts of width `moe_intermediate_size` see every token, `num_experts` are
    routed, and the first `first_k_dense_replace` layers have one dense MLP of `intermediate_size`.
    `routing` says what routers read: see `nanomoe.pooling`. There is no key-value cache.
    """

    model_type = "nanomoe"
    attribute_map = {"num_local_experts": "num_experts"}

    vocab_size: int = 4096
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int = 384
    moe_intermediate_size: int = 128
    num_experts: int = 8
    num_experts_per_tok: int = 2
    n_shared_experts: int = 1
    first_k_dense_replace: int = 0
    norm_topk_prob: bool = True
    routing: str = "token"
    hidden_act: str = "silu"
    max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-6
    rope_parameters: dict | None = None
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    initializer_range: float = 0.02
    use_cache: bool = False
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
        if self.rope_parameters is None:
            self.rope_parameters = {"rope_type": "default", "rope_theta": 10_000.0}
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Raise ValueError where the sizes do not fit together; transformers calls this."""
        if self.routing not in ROUTINGS:
            raise ValueError(f"routing is one of {', '.join(ROUTINGS)}, not {self.routing!r}")
        if self.num_experts_per_tok > self.num_experts:
            raise ValueError(
                f"num_experts_per_tok {self.num_experts_per_tok} exceeds "
                f"num_experts {self.num_experts}"
            )
