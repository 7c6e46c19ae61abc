"""The shape of a DeepSeekMoE model, as the `config.json` of its published checkpoints has it."""

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig


@strict
class DeepseekConfig(LlamaConfig):
    """Llama's configuration and the keys of its experts, with the defaults of the published code.

    A layer has experts where it is not among the first `first_k_dense_replace` and its index is a
    multiple of `moe_layer_freq`. Of `n_routed_experts` a token gets `num_experts_per_tok`, besides
    the `n_shared_experts` that see every token. Keys of the load-balancing loss (`aux_loss_alpha`,
    `seq_aux`) are kept and written back, not used; `auto_map` too.
    """

    model_type = "deepseek"
    attribute_map = {"num_experts": "n_routed_experts"}

    vocab_size: int = 102400
    bos_token_id: int | None = 100000
    eos_token_id: int | list[int] | None = 100001
    moe_intermediate_size: int = 1407
    n_routed_experts: int | None = None
    n_shared_experts: int | None = None
    num_experts_per_tok: int | None = None
    first_k_dense_replace: int = 0
    moe_layer_freq: int = 1
    norm_topk_prob: bool = False
    scoring_func: str = "softmax"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.scoring_func != "softmax":  # in a validator it would be no ValueError outside
            raise ValueError(
                f"scoring_func is {self.scoring_func!r}, but routers of model type 'deepseek' "
                "score by 'softmax' only"
            )

    def has_experts(self, layer: int) -> bool:
        """Say whether a layer's MLP is a Mixture of Experts."""
        is_sparse = layer >= self.first_k_dense_replace and layer % self.moe_layer_freq == 0
        return is_sparse and self.n_routed_experts is not None
