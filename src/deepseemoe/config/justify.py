"""The experiment that tells whether a dictionary should span layers, and which."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from deepseemoe.config.base import Section, WindowField

ArmName = Literal[
    "features-l0", "features-pairs", "cost-l0", "cost-pairs", "copy", "shuffled", "random"
]
ALL_ARMS: tuple[ArmName, ...] = (
    "features-l0",
    "features-pairs",
    "cost-l0",
    "cost-pairs",
    "copy",
    "shuffled",
    "random",
)


class JustifyConfig(Section):
    """The target `justify`: crosscoders of every window against separate SAEs of equal budgets.

    Budgets are for each layer, so that windows of any width compare: a crosscoder of W layers has
    W × `d_dict` features and W × `k` of them active.
    """

    layers: WindowField | None = Field(
        None,
        description="Layers that windows are laid in, as L08-L15; empty: all of a model that the "
        "run makes itself. Name them for `source: hub`.",
    )
    widths: tuple[int | Literal["all"], ...] = Field(
        (1, 2, 3, 5, "all"),
        description="Layers of a window; each width is tried at every place. Wider than `layers` "
        "is left out, `all` spans them; 1 is always there, as what all else is compared with.",
    )
    arms: tuple[ArmName, ...] = Field(
        ALL_ARMS,
        description="What crosscoders are compared with. Separate SAEs with equal features "
        "(`features`) or equal parameters and FLOPs (`cost`), each with equal total L0 (`-l0`) or "
        "equal active (feature, layer) pairs (`-pairs`); one SAE's features decoded at every layer "
        "(`copy`); crosscoders of layers whose tokens are shuffled (`shuffled`), and of a model "
        "with random weights (`random`).",
    )
    d_dict: int = Field(256, gt=1, description="Features for each layer of a window.")
    k: int = Field(8, gt=0, description="Active features for each layer of a window.")
    n_tokens: int = Field(250_000, gt=0, description="Tokens each dictionary trains on.")
    batch_tokens: int = Field(512, gt=0, description="Tokens of one step.")
    learning_rate: float | None = Field(
        3e-3, gt=0, description="Of every dictionary; empty means as in `dictionaries`."
    )
    init_norm: float = Field(0.7, gt=0, description="Norm of a feature's decoder at the start.")
    checkpoint_steps: int = Field(
        500, gt=0, description="Steps between checkpoints to resume from."
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 1, 2), min_length=1, description="Every dictionary is trained with each; 3 or more."
    )
    null_seeds: int = Field(
        1, gt=0, description="How many of the seeds `shuffled` and `random` are trained with."
    )
    test_tokens: int = Field(32_768, gt=0, description="Test tokens for FVU and routing probes.")
    probe_tokens: int = Field(
        16_384, gt=0, description="Tokens of `select` that probes and copies are fitted on."
    )
    probe_features: int = Field(
        4096, gt=0, description="Features that a routing probe sees, the most frequent first."
    )
    spliced_tokens: int = Field(
        8192, gt=0, description="Test tokens that run with reconstructions in the model."
    )
    endpoint: Literal["fvu", "loss_recovered", "router_agreement", "routing_f1"] = Field(
        "fvu",
        description="What windows are judged by, named before anything is trained: `fvu`, the mean "
        "over layers, is measured on most tokens and so has the narrowest interval, and trains no "
        "probe of its own; the others say what the difference is worth to the model.",
    )
    max_fvu: float = Field(
        0.2, gt=0, description="Layers whose dictionaries leave more unexplained are not ranked."
    )
    n_bootstrap: int = Field(
        1000, ge=50, description="Draws of documents behind each standard error."
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Coverage of the intervals.")
    format: Literal[1] = Field(1, description="A higher one reruns the stage.")

    @model_validator(mode="after")
    def _hangs_together(self) -> "JustifyConfig":
        narrow = [width for width in self.widths if width != "all" and width < 1]
        if narrow:
            raise ValueError(f"widths: {narrow[0]} is no number of layers; 1 is the smallest")
        if "features-l0" not in self.arms:
            raise ValueError("arms: features-l0 must be among them, as all gains are over it")
        if self.null_seeds > len(self.seeds):
            raise ValueError(
                f"null_seeds {self.null_seeds} is more than the {len(self.seeds)} seeds; lower it"
            )
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} holds one twice; each is a repetition")
        if self.k >= self.d_dict:
            raise ValueError(f"k {self.k} is not less than d_dict {self.d_dict}")
        return self
