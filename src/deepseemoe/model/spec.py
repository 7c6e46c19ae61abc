"""The adapter table: where each model family keeps what we read, and how its routers decide.

A row states only what differs from the commonest layout (OLMoE's); everything else in this package
is the same code for all families. A new family is one row here and one case in the tests, which
hold it to three identities: resid_mid = resid_pre + attn_out, resid_post = resid_mid + moe_out, and
the block's output = expert_out + shared_out.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from transformers import PreTrainedConfig

from deepseemoe.model.contributions import Contributions, weigh_inputs, weigh_outputs
from deepseemoe.model.forms import (
    CHOSEN,
    OVERWRITTEN,
    PLAIN,
    ROWS_FOR_ALL_EXPERTS,
    SCORES,
    Form,
    RouterForm,
)
from deepseemoe.model.routers import (
    Route,
    biased_sigmoid,
    biased_softmax,
    scaled_softmax,
    softmax_in_model_dtype,
    softmax_then_topk,
    softmax_then_topk_sum_one,
    topk_then_sigmoid,
    topk_then_softmax,
)


@dataclass(frozen=True)
class Spec:
    """One family. Names of modules are attributes of a decoder layer or of its MoE block."""

    route: Route
    block: str = "mlp"
    router: str = "gate"
    experts: str = "experts"
    shared: str | None = None
    attention: str = "self_attn"
    router_norm: str | None = "post_attention_layernorm"
    """The norm from resid_mid to moe_in; None where the block reads resid_mid itself."""
    attention_out_norm: str | None = None
    """The norm between attention and the residual stream, in post-norm families."""
    block_out_norm: str | None = None
    """The norm between the MoE block and the residual stream, in post-norm families."""
    window: Literal["never", "every layer", "by layer type"] = "never"
    """Which layers see only a window or chunk of the text, where the configuration sets one."""
    attention_kernel: str | None = None
    """Attention to ask transformers for, where its default is not good enough."""
    router_form: RouterForm = CHOSEN
    experts_form: Form = PLAIN
    shared_form: Form = PLAIN
    """In which form routers, routed and shared experts return their values; see `forms`."""
    contributions: Contributions = weigh_outputs
    n_experts: str = "num_experts"
    d_expert: str = "moe_intermediate_size"
    n_shared_experts: str | int = 0
    """The number, or the key of the configuration that holds it."""


SPECS: dict[str, Spec] = {
    "gpt_oss": Spec(
        topk_then_softmax,
        router="router",
        window="by layer type",
        attention_kernel="sink_attn",
        d_expert="intermediate_size",
    ),
    "flex_olmo": Spec(
        softmax_then_topk,
        router_norm=None,
        attention_out_norm="post_attention_layernorm",
        block_out_norm="post_feedforward_layernorm",
        d_expert="intermediate_size",
    ),
    "olmoe": Spec(softmax_then_topk, d_expert="intermediate_size"),
    "mixtral": Spec(softmax_then_topk_sum_one, window="every layer", d_expert="intermediate_size"),
    "qwen3_moe": Spec(softmax_then_topk, window="every layer"),
    "deepseek": Spec(
        softmax_in_model_dtype,
        shared="shared_experts",
        n_experts="n_routed_experts",
        n_shared_experts="n_shared_experts",
    ),
    "deepseek_v2": Spec(
        scaled_softmax,
        shared="shared_experts",
        n_experts="n_routed_experts",
        n_shared_experts="n_shared_experts",
    ),
    "deepseek_v3": Spec(
        biased_sigmoid,
        shared="shared_experts",
        n_experts="n_routed_experts",
        n_shared_experts="n_shared_experts",
    ),
    "glm4_moe": Spec(
        biased_sigmoid,
        shared="shared_experts",
        n_experts="n_routed_experts",
        n_shared_experts="n_shared_experts",
    ),
    "ernie4_5_moe": Spec(
        biased_softmax, shared="shared_experts", n_shared_experts="moe_num_shared_experts"
    ),
    "llama4_text": Spec(
        topk_then_sigmoid,
        block="feed_forward",
        router="router",
        shared="shared_expert",
        window="by layer type",
        router_form=SCORES,
        experts_form=ROWS_FOR_ALL_EXPERTS,
        shared_form=OVERWRITTEN,
        contributions=weigh_inputs,
        n_experts="num_local_experts",
        d_expert="intermediate_size",
        n_shared_experts=1,
    ),
    "nanomoe": Spec(
        softmax_then_topk, shared="shared_experts", n_shared_experts="n_shared_experts"
    ),
}


class Sizes(NamedTuple):
    """The sizes of a model in this project's words."""

    n_layers: int
    d_model: int
    n_experts: int
    n_shared_experts: int
    top_k: int
    d_expert: int


def spec_for(model_type: str) -> Spec:
    """Return the row of a `model_type` of config.json; raise ValueError for an unknown one."""
    if model_type not in SPECS:
        raise ValueError(
            f"model type {model_type!r} is no Mixture-of-Experts family that this version reads; "
            f"known are {', '.join(sorted(SPECS))}"
        )
    return SPECS[model_type]


def sizes_of(config: PreTrainedConfig) -> Sizes:
    """Return the sizes of a model of a known family."""
    spec = spec_for(config.model_type)
    n_shared = spec.n_shared_experts
    return Sizes(
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_experts=getattr(config, spec.n_experts),
        n_shared_experts=(getattr(config, n_shared) or 0)
        if isinstance(n_shared, str)
        else n_shared,
        top_k=config.num_experts_per_tok,
        d_expert=getattr(config, spec.d_expert),
    )
