"""The stages that read trained dictionaries, from features to the report."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from deepseemoe.config.base import Section


class FeaturesConfig(Section):
    """Encoding of the test split, and the example contexts of each feature."""

    context_before: int = Field(24, ge=0, description="Tokens shown before the peak of a context.")
    context_after: int = Field(8, ge=0, description="Tokens shown after it.")
    n_top: int = Field(
        10,
        gt=0,
        description="Contexts with the highest activations, in each half of the documents.",
    )
    n_quantiles: int = Field(10, gt=0, description="Activation quantiles that are sampled.")
    n_per_quantile: int = Field(1, ge=0, description="Contexts from each quantile and half.")
    n_near: int = Field(
        10,
        ge=0,
        description="Near misses in each half: the feature's own tokens where it is off.",
    )
    n_neighbour: int = Field(
        5,
        ge=0,
        description="Contexts of the features nearest to it where it is off itself, in each half.",
    )
    format: Literal[1] = Field(1, description="A higher one reruns the stage.")


class RoutingConfig(Section):
    """Tables of the routers' decisions on the test split."""

    min_token_count: int = Field(
        10, gt=0, description="Vocabulary tables leave out rarer tokens (occurrences)."
    )
    n_bootstrap: int = Field(200, ge=20, description="Draws of documents behind the intervals.")
    n_permutations: int = Field(
        200, ge=20, description="Permutations of the documents' domains behind p."
    )
    n_shifts: int = Field(
        20,
        ge=20,
        description="Turns of a layer against the one before behind p of paths; each is "
        "a count of all tokens.",
    )
    n_paths: int = Field(20, gt=0, description="Paths over three layers that are listed.")
    token_top_p: float = Field(
        0.2, gt=0, le=1, description="Sum of token scores up to which ESFT chooses experts."
    )
    gate_top_p: float = Field(0.1, gt=0, le=1, description="The same of gate scores.")
    centroid_tokens: int = Field(
        20_000, gt=0, description="Test tokens whose router inputs are held against its rows."
    )
    saturation_tokens: int = Field(
        20_000, gt=0, description="Test tokens that each kept checkpoint routes."
    )
    format: Literal[1] = Field(1, description="A higher one reruns the stage.")


class ExpertsConfig(Section):
    """The maps between features and experts, and what a pair needs to be tested."""

    min_tokens: int = Field(50, gt=0, description="Test tokens a feature must fire on.")
    min_documents: int = Field(20, gt=1, description="Test documents a feature must fire in.")
    min_expected: float = Field(5.0, gt=0, description="Expected joint count of a pair.")
    n_permutations: int = Field(
        200, ge=50, description="Permutations of documents behind p_perm; cost grows with them."
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Coverage of the intervals.")
    effect_tokens: int = Field(
        400, gt=1, description="Firing tokens of a feature behind its local causal effects."
    )
    full_features: int = Field(
        32,
        ge=0,
        description="Features of a window that are also taken out of the running model, those with "
        "the largest local effects; cost grows with them. 0 leaves it out.",
    )
    full_sequences: int = Field(
        16, gt=1, description="Sequences in which each of them is taken out."
    )
    full_layers: Literal["one", "window"] = Field(
        "one",
        description="Where it is taken out: `one` layer, what the router reads, or every layer of "
        "the `window`.",
    )
    format: Literal[2] = Field(2, description="A higher one reruns the stage.")


class PredictionConfig(Section):
    """How well routing is predicted from features, tokens and what is no dictionary."""

    n_tokens: int = Field(
        32_768,
        gt=0,
        description="Test tokens, in whole documents: half fit probes, a fifth choose penalties, "
        "the rest is tested. About a million settle a model with 32 experts; memory and time grow "
        "with them.",
    )
    min_documents: int = Field(
        20, ge=10, description="With fewer documents among those tokens there are no scores."
    )
    penalties: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (30.0, 3.0, 0.3),
        min_length=1,
        description="Penalties on weights that probes are tried with, the strongest first, each "
        "the precision of a normal prior; weaker ones are tried while they help.",
    )
    random_model: bool = Field(
        False,
        description="Also predict from random features of the model with random weights, which "
        "the run then draws and runs over the test text: what token and context alone give.",
    )
    n_bootstrap: int = Field(500, ge=50, description="Draws of documents behind the intervals.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Coverage of the intervals.")
    format: Literal[1] = Field(1, description="A higher one reruns the stage.")

    @field_validator("penalties")
    @classmethod
    def _falls(cls, penalties: tuple[float, ...]) -> tuple[float, ...]:
        if list(penalties) != sorted(set(penalties), reverse=True):
            raise ValueError(f"{list(penalties)} must fall, the strongest first, none twice")
        return penalties


class ReportConfig(Section):
    """Figures and the summary page."""

    n_experts: int = Field(12, gt=0, description="Experts shown with their features.")
    features_per_expert: int = Field(5, gt=0, description="Features shown for each expert.")
    contexts_per_feature: int = Field(3, gt=0, description="Contexts shown for each feature.")
    heatmap_features: int = Field(200, gt=1, description="Features in the map's heat map.")
    formats: tuple[Literal["svg", "png", "pdf"], ...] = Field(
        ("svg", "png"), min_length=1, description="File types of the figures; svg is always drawn."
    )

    @model_validator(mode="after")
    def _has_svg(self) -> "ReportConfig":
        if "svg" not in self.formats:
            raise ValueError("formats must hold svg, which the summary page shows")
        return self
