"""The model under study, and the tiny one that the workflow trains where none is named."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from deepseemoe.config.base import Section


class ArchitectureConfig(Section):
    """The shape of NanoMoE, the Mixture-of-Experts model that the workflow trains itself."""

    d_model: int = Field(128, ge=8, description="Width of the residual stream.")
    n_layers: int = Field(4, ge=1, description="Decoder layers.")
    n_heads: int = Field(4, ge=1, description="Attention heads; must divide d_model.")
    n_experts: int = Field(8, ge=2, description="Routed experts of each MoE layer.")
    top_k: int = Field(2, ge=1, description="Routed experts active on a token.")
    d_expert: int = Field(128, ge=1, description="Hidden width of one expert.")
    n_shared_experts: int = Field(1, ge=0, description="Experts that every token passes.")
    n_dense_layers: int = Field(0, ge=0, description="First layers with a dense MLP instead.")
    routing: Literal["token", "sequence", "prefix"] = Field(
        "token",
        description="What the router reads: each token, the mean of its document (sees the "
        "future), or the running mean of its document so far.",
    )
    norm_topk_prob: bool = Field(True, description="Scale the weights of chosen experts to sum 1.")

    @model_validator(mode="after")
    def _fits_together(self) -> "ArchitectureConfig":
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of n_heads {self.n_heads}")
        if self.d_model // self.n_heads % 2:
            raise ValueError(
                f"d_model {self.d_model} over n_heads {self.n_heads} is an odd width of heads, and "
                "rotary positions turn pairs; choose others"
            )
        if self.top_k > self.n_experts:
            raise ValueError(f"top_k {self.top_k} exceeds n_experts {self.n_experts}")
        if self.n_dense_layers >= self.n_layers:
            raise ValueError(f"n_dense_layers {self.n_dense_layers} leaves no MoE layer")
        return self


class TrainingConfig(Section):
    """How NanoMoE is trained on the train split."""

    n_tokens: int = Field(
        1_200_000, gt=0, description="Tokens to train on; passes repeat as needed."
    )
    batch_sequences: int = Field(16, gt=0, description="Sequences of one step.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW.")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Share of steps that warm up.")
    weight_decay: float = Field(0.1, ge=0, description="Decay of matrices, not of norms.")
    balance_loss: float = Field(
        0.01, ge=0, description="Weight of the Switch load-balancing loss; less lets load differ."
    )
    z_loss: float = Field(0.0, ge=0, description="Weight of the squared log-partition of routers.")
    checkpoint_steps: int = Field(
        100, gt=0, description="Steps between checkpoints to resume from."
    )
    keep_checkpoints: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.01, 0.1, 0.2, 0.4),
        description="Shares of training after which weights are kept, for the saturation of "
        "routers; each takes the disk of the model once more. Empty keeps none.",
    )


class ModelConfig(Section):
    """Which model is read."""

    source: Literal["nanomoe", "hub", "planted"] = Field(
        "nanomoe",
        description="`nanomoe`: train our own tiny MoE on the corpus. `hub`: a name on the Hugging "
        "Face Hub or a local folder. `planted`: hand-set weights with a known feature-expert map.",
    )
    name: str | None = Field(None, description="Hub name or local folder for `source: hub`.")
    revision: str | None = Field(None, description="Branch, tag or commit of the Hub name.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Type to compute in; bfloat16 on GPUs, float32 on CPUs."
    )
    kernels: Literal["plain", "native"] = Field(
        "plain",
        description="gpt-oss checkpoints in MXFP4: `plain` expands weights to dtype; `native` "
        "keeps 4-bit weights and transformers' kernels, which need triton, the `kernels` package "
        "and a GPU; a self-test proves that hooks fire.",
    )
    expert_domains: tuple[str, ...] = Field(
        (),
        description="What each routed expert was made for, in the order of experts, where you know "
        "it (FlexOlmo); shown beside what the maps find.",
    )
    random_weights: bool = Field(
        False,
        description="Read the model with weights that are drawn, not trained, in every stage: the "
        "control run whose labels and maps say what training put there (docs/trust.md).",
    )
    architecture: ArchitectureConfig = ArchitectureConfig()
    training: TrainingConfig = TrainingConfig()
    format: Literal[1] = Field(1, description="A higher one retrains.")

    @model_validator(mode="after")
    def _hub_has_a_name(self) -> "ModelConfig":
        if self.source == "hub" and not self.name:
            raise ValueError("source `hub` needs a name, as name: openai/gpt-oss-20b or a folder")
        if self.source == "hub" and "\0" in str(self.name):
            raise ValueError("name holds a NUL; write the name anew")
        hub_only = {"name": self.name, "revision": self.revision}
        hub_only["kernels"] = None if self.kernels == "plain" else self.kernels
        for key, value in hub_only.items():
            if self.source != "hub" and value:
                raise ValueError(
                    f"{key} {value} is for source hub, and source is {self.source}; write source: "
                    f"hub, or leave {key} out"
                )
        n_named, n_experts = len(self.expert_domains), self.architecture.n_experts
        if self.source != "hub" and n_named not in (0, n_experts):
            raise ValueError(
                f"expert_domains names {n_named} experts, and the model has {n_experts} a layer; "
                "name each"
            )
        return self

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "ModelConfig":
        if not self.random_weights:
            return self
        if self.source == "planted":
            raise ValueError(
                "random_weights: a planted model is its hand-set weights; the control of planted "
                "maps is `snakemake trust`"
            )
        if self.kernels == "native":
            raise ValueError(
                "random_weights: fresh weights are not packed in 4 bits; write kernels: plain"
            )
        return self

    @property
    def trained(self) -> "ModelConfig":
        """The model whose weights were trained, also where the run reads drawn ones."""
        return self.model_copy(update={"random_weights": False})
