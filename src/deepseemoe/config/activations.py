"""What is cached of a forward pass, and how it is stored."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from deepseemoe.config.base import Section
from deepseemoe.names import HookPoint


class ActivationsConfig(Section):
    """The activation stores: what they hold beyond the dictionaries' needs, and their layout."""

    only_how: ClassVar[frozenset[str]] = frozenset({"shards_per_job"})

    hook_points: tuple[HookPoint, ...] = Field(
        (), description="Hook points to store besides those that the dictionaries read and write."
    )
    layers: tuple[int, ...] = Field(
        (), description="Layers for the extra hook points; empty means the layers of all windows."
    )
    router_logits: bool = Field(
        True,
        description="Store all router logits, not only the chosen experts and weights, so that "
        "maps regress logits too; 4 bytes a token, layer and expert.",
    )
    routing: Literal["needed", "all"] = Field(
        "needed",
        description="Layers whose routing is stored: `needed` is every layer up to the last that a "
        "window or its routers reach, and nothing after it is loaded or run; `all` runs the model "
        "to its end.",
    )
    batch_sequences: int = Field(8, gt=0, description="Sequences of one forward pass.")
    window_tokens: int = Field(
        32_768, gt=0, description="Rows permuted together when written, and rows of one zarr shard."
    )
    chunk_tokens: int = Field(
        256, gt=0, description="Rows of one checksummed chunk, the unit that training reads."
    )
    norm_outlier: float = Field(
        10.0, gt=1, description="Rows above this multiple of the median norm are marked not valid."
    )
    shards_per_job: int = Field(
        1,
        gt=0,
        description="Neighbouring shards of a split that one job captures; more load the model "
        "less often.",
    )
    format: Literal[1] = Field(1, description="Layout of the store; a higher one reruns the stage.")

    @model_validator(mode="after")
    def _chunks_fill_windows(self) -> "ActivationsConfig":
        if self.window_tokens % self.chunk_tokens:
            raise ValueError(
                f"window_tokens {self.window_tokens} is not a multiple of chunk_tokens "
                f"{self.chunk_tokens}"
            )
        return self
