"""How activations reach the training of dictionaries."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from deepseemoe.config.base import Section


class BatchesConfig(Section):
    """Where training takes its activations from; select and test text is always cached."""

    only_how: ClassVar[frozenset[str]] = frozenset({"round_shards"})
    """`params:` that hold this section are those of live training, which knows no rounds."""

    source: Literal["cache", "live"] = Field(
        "cache",
        description="`cache`: stores of the train split on disk, read as often as wanted. `live`: "
        "the model runs beside the training of all dictionaries and no train store is written.",
    )
    buffer_tokens: int = Field(
        262_144,
        gt=0,
        description="Tokens that `live` shuffles together on the dictionaries' device; each costs "
        "2 bytes a channel of every site.",
    )
    together: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1,
        description="Dictionaries that one job of `cache` trains from one pass over the stores, at "
        "most; those with the same batch_tokens go together. `auto`: as many as fit a GPU of "
        "devices.gpu_gib, one where dictionaries train on CPUs. Results are the same to the bit.",
    )

    round_shards: int | None = Field(
        None,
        ge=1,
        description="Shards of the train split that `cache` holds as one round. Rounds are "
        "captured, trained on and removed one after the other, and no more than two are on the "
        "disk; empty keeps all stores.",
    )

    @property
    def rules(self) -> str:
        """Return which rules train the dictionaries: rules/training_*.smk."""
        if self.source == "live":
            return "live"
        if self.round_shards is not None:
            return "rounds"
        return "cache" if self.together == 1 else "together"

    @model_validator(mode="after")
    def _live_is_together(self) -> "BatchesConfig":
        if self.source == "live" and self.together != 1:
            raise ValueError("together: source live trains all dictionaries in one job; leave it 1")
        if self.source == "live" and self.round_shards is not None:
            raise ValueError("round_shards: source live writes no train stores; leave it out")
        return self
