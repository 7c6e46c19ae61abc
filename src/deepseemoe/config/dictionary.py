"""One sparse dictionary: what it reads and writes, its size, and how it is trained."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from deepseemoe.config.base import Section
from deepseemoe.names import Window


class ImportedConfig(Section):
    """Published SAEs of the residual stream, read in place of training; windows are one layer."""

    format: Literal["saelens", "dictionary_learning"] = Field(
        description="The tool whose files they are."
    )
    folder: str = Field(
        min_length=1,
        description="Folder of the SAE; `{layer}` in it stands for the layer, as 11, and "
        "`{window}` for the window, as L11-L11.",
    )

    def folder_of(self, window: Window) -> str:
        """Return the folder of a window's SAE."""
        named = self.folder.replace("{window}", str(window))
        return named.replace("{layer}", str(window.first))


class DictionaryConfig(Section):
    """A named dictionary; one is trained for every window of layers."""

    imported: ImportedConfig | None = Field(
        None,
        description="Read this dictionary from files of another tool; then only `d_dict` and `k` "
        "of the other keys count, and must be what the files have.",
    )

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
        description="Peak learning rate of Adam; empty means the larger of "
        "2e-4 / sqrt(d_dict / 2^14) "
        "and, for short runs, 3 × init_norm / sqrt(columns written × steps).",
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
    seed: int | None = Field(
        None,
        ge=0,
        description="Seed of its random start; empty: the run's. Text comes in the run's order "
        "whatever it is, so that several seeds train from one pass.",
    )
    checkpoint_steps: int = Field(
        500, gt=0, description="Steps between checkpoints to resume from."
    )
    wandb_project: str | None = Field(
        None, description="Also log curves to this wandb project (needs `pip install wandb`)."
    )
    format: Literal[2] = Field(2, description="A higher one retrains.")

    @model_validator(mode="after")
    def _fits_together(self) -> "DictionaryConfig":
        if problems := [*self._problems()]:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        """Yield which keys do not go together."""
        if self.kind == "crosscoder":
            for name, value in (
                ("skip", self.skip),
                ("reconstruct_input", self.reconstruct_input),
                ("cross_layer", not self.cross_layer),
            ):
                if value:
                    found = str(getattr(self, name)).lower()
                    yield f"{name} {found} is for kind transcoder, not crosscoder"
        elif self.pre_bias:
            yield "pre_bias true is for kind crosscoder, not transcoder"
        if not all(low < high for low, high in pairwise((0.0, *self.prefixes, 1.0))):
            yield f"prefixes {[*self.prefixes]} do not rise between 0 and 1, both left out"
        if self.warmup_fraction + self.decay_fraction > 1:
            yield (
                f"warmup_fraction {self.warmup_fraction} and decay_fraction {self.decay_fraction} "
                "are more than all steps; lower one of them"
            )
        if self.n_tokens < self.batch_tokens:
            yield (
                f"n_tokens {self.n_tokens} is less than one batch of batch_tokens "
                f"{self.batch_tokens}; raise the one or lower the other"
            )

    def smallest_group(self, n_layers: int) -> int:
        """Return how many features the smallest run has that reads and writes alike.

        `dictionary.layout.parts_of` cuts them: a transcoder's source layers first, then prefixes.
        """
        n_features = self.d_dict // (1 if self.kind == "crosscoder" else n_layers)
        ends = [round(share * n_features) for share in (0.0, *self.prefixes, 1.0)]
        return min(stop - first for first, stop in pairwise(ends))

    @property
    def router_shift(self) -> int:
        """How far above a layer of its window the router that reads it stands."""
        return 1 if self.kind == "crosscoder" else 0
