"""The certificate of the maps: planted worlds, nulls, and the run's own data with ties cut."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from deepseemoe.config.base import Section

FamilyName = Literal["sums", "topics"]
PresetName = Literal["easy", "realistic", "hard"]
NullName = Literal[
    "independent", "spans", "documents", "lengths", "other-routing", "other-routing-topics"
]
SwitchName = Literal["documents", "layers", "weights", "labels"]

ALL_NULLS: tuple[NullName, ...] = get_args(NullName)


class TrustConfig(Section):
    """The target `trust`: how far the maps of this run may be believed."""

    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 1, 2, 3, 4),
        min_length=3,
        description="Every planted world and null is made with each; intervals are over them.",
    )
    families: tuple[FamilyName, ...] = Field(
        ("sums", "topics"),
        description="Generators of planted worlds; they share no code for text or features.",
    )
    presets: tuple[PresetName, ...] = Field(
        ("easy", "realistic", "hard"), description="How well the dictionary knows the features."
    )
    nulls: tuple[NullName, ...] = Field(
        ALL_NULLS, description="Worlds in which nothing is to be found."
    )
    switches: tuple[SwitchName, ...] = Field(
        ("documents", "layers", "labels"),
        description="Ties of the run's own data that are cut: features with the routing of other "
        "`documents`, with that of other `layers` in other documents, domains with `labels` of "
        "other documents; `weights` also joins features with the routing of the model with random "
        "weights, which runs over the test split for it: routers that nobody trained have causes "
        "too.",
    )
    draws: int = Field(
        3, gt=0, description="How often each tie is cut; costs a map of the run each time."
    )
    format: Literal[1] = Field(1, description="A higher one reruns the stage.")

    @model_validator(mode="after")
    def _is_sound(self) -> "TrustConfig":
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} holds one twice; each is a repetition")
        return self
