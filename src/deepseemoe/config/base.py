"""What the sections share: strict frozen models, and errors that a user can act on."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from deepseemoe.config.problems import lines_of
from deepseemoe.names import Window


def _window(value: Any) -> Window:
    return value if isinstance(value, Window) else Window.parse(str(value))


WindowField = Annotated[
    Window,
    BeforeValidator(_window),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": r"^L\d{2,3}-L\d{2,3}$"}),
]


class Section(BaseModel):
    """A section of the configuration: unknown keys are errors, and nothing changes it once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    only_how: ClassVar[frozenset[str]] = frozenset()
    """Keys that say how the work is cut up and not what comes out: `params:` go without them."""

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_switch(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `true` where a number is wanted; Python takes it for 1."""
        values = value if isinstance(value, (list, tuple)) else [value]
        kind = cls.model_fields[str(info.field_name)].annotation
        if any(isinstance(one, bool) for one in values) and not _takes_switch(kind):
            raise ValueError("is neither true nor false; write a value as the key asks for")
        return value


def _takes_switch(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_takes_switch, get_args(annotation)))


class ConfigError(ValueError):
    """The configuration is wrong; one line for each problem says what to write."""


S = TypeVar("S", bound=Section)


def read_section(model: type[S], raw: Mapping[str, Any]) -> S:
    """Return `raw` as a `model`; raise ConfigError with one line for each wrong key."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = lines_of(model, raw, error.errors())
        raise ConfigError("\n".join(["the configuration is not valid:", *lines])) from None
