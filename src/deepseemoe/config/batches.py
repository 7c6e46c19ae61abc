"""How activations reach the training of dictionaries."""

from typing import Literal

from pydantic import Field

from deepseemoe.config.base import Section


class BatchesConfig(Section):
    """Where training takes its activations from; select and test text is always cached."""

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
