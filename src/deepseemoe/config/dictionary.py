"""One sparse dictionary: what it reads and writes, its size, and how it is trained."""

from typing import Literal

from pydantic import Field

from deepseemoe.config.base import Section


class DictionaryConfig(Section):
    """A named dictionary; one is trained for every window of layers."""

    kind: Literal["crosscoder", "transcoder"] = Field(
        "crosscoder",
        description="`crosscoder` reads and writes resid_post of all layers of its window (a "
        "window of one is a plain SAE). `transcoder` reads `reads` of each layer and writes "
        "moe_out of that layer and of the later ones of the window.",
    )
    reads: Literal["moe_in", "attn_out", "resid_mid"] = Field(
        "moe_in", description="What a transcoder reads; a crosscoder always reads resid_post."
    )
    cross_layer: bool = Field(
        True,
        description="Whether a transcoder's features write the later layers of the window too; "
        "without, each layer has a transcoder of its own.",
    )
    skip: bool = Field(
        False,
        description="Whether a transcoder has a linear map from what each layer reads to what it "
        "writes besides its features (a skip transcoder).",
    )
    reconstruct_input: bool = Field(
        False,
        description="Whether a transcoder writes what it reads as well (pre/post): its features "
        "then tell what the experts wrote from what was there before.",
    )
    activation: Literal["batch_topk", "topk", "jumprelu", "relu"] = Field(
        "batch_topk",
        description="`batch_topk` keeps k features a token on average over a batch, `topk` k of "
        "each token, `jumprelu` learns a threshold of each feature so that they are k on average; "
        "`relu` has no k but an L1 penalty.",
    )
    prefixes: tuple[float, ...] = Field(
        (),
        description="Matryoshka: shares of the features, rising and below 1, that reconstruct on "
        "their own too, as [0.0625, 0.25].",
    )
    d_dict: int = Field(1024, gt=1, description="Features; full scale 8 to 32 times d_model.")
    k: int = Field(16, gt=0, description="Features active on a token, on average over a batch.")
    n_tokens: int = Field(2_000_000, gt=0, description="Tokens to train on; passes repeat.")
    batch_tokens: int = Field(1024, gt=0, description="Tokens of one step.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate of Adam; empty means 2e-4 / sqrt(d_dict / 2^14).",
    )
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Share of steps that warm up.")
    decay_fraction: float = Field(0.2, ge=0, lt=1, description="Share of steps that decay to 0.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    auxk_weight: float = Field(
        1 / 32, ge=0, description="Weight of the loss that revives features."
    )
    k_aux: int | None = Field(
        None, gt=0, description="Dead features it uses; empty: half of d_model."
    )
    dead_tokens: int | None = Field(
        None,
        gt=0,
        description="Silent tokens after which a feature is dead; empty: the smaller of "
        "10 million and a tenth of n_tokens.",
    )
    sparsity_weight: float = Field(
        1.0,
        gt=0,
        description="Weight of the penalty of `relu` (L1, as in the crosscoder note) and `jumprelu`"
        " (squared relative distance of L0 to k).",
    )
    decoder_norm: Literal["free", "unit"] = Field(
        "free", description="`unit` holds decoders at norm 1, as dictionary_learning does."
    )
    pre_bias: bool = Field(
        False,
        description="Whether a crosscoder takes its decoder bias from what it reads, as "
        "dictionary_learning does; what is saved has it folded in.",
    )
    init_norm: float = Field(0.5, gt=0, description="Norm of a feature's decoder at the start.")
    checkpoint_steps: int = Field(
        500, gt=0, description="Steps between checkpoints to resume from."
    )
    wandb_project: str | None = Field(
        None, description="Also log curves to this wandb project (needs `pip install wandb`)."
    )
    format: Literal[2] = Field(2, description="A higher one retrains.")

    @property
    def router_shift(self) -> int:
        """How far above a layer of its window the router that reads it stands."""
        return 1 if self.kind == "crosscoder" else 0
