"""What the sections share: strict frozen models, and errors that a user can act on."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)

from deepseemoe.names import Window

WindowField = Annotated[
    Window,
    BeforeValidator(lambda value: Window.parse(value) if isinstance(value, str) else value),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": r"^L\d{2,3}-L\d{2,3}$"}),
]


class Section(BaseModel):
    """A section of the configuration: unknown keys are errors, and nothing changes it once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    only_how: ClassVar[frozenset[str]] = frozenset()
    """Keys that say how the work is cut up and not what comes out: `params:` go without them."""


class ConfigError(ValueError):
    """The configuration is wrong; one line for each problem says what to write."""


S = TypeVar("S", bound=Section)


def read_section(model: type[S], raw: Mapping[str, Any]) -> S:
    """Return `raw` as a `model`; raise ConfigError with one line for each wrong key."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_line(model, problem) for problem in error.errors()]
        raise ConfigError("\n".join(["the configuration is not valid:", *lines])) from None


def _line(model: type[Section], problem: Mapping[str, Any]) -> str:
    """Return one problem as a line: where, what, and what was found or the nearest known key."""
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        *parents, last = problem["loc"]
        near = get_close_matches(str(last), _keys(model, parents), n=1)
        return f"  {where}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "literal_error":
        near = get_close_matches(str(problem["input"]), _options(message), n=1)
        message += f"; did you mean {near[0]!r}?" if near else ""
    if "password" in message:
        return f"  {where}: {message}"
    if isinstance(problem["input"], Mapping):  # a rule across fields names its fields itself
        return f"  {where}: {message}" if where else f"  {message}"
    return f"  {where}: {message} (found {problem['input']!r})"


def _options(message: str) -> list[str]:
    """Return the choices that pydantic lists in a message such as "… should be 'a', 'b' or 'c'"."""
    return message.split("'")[1::2]


def _keys(model: type[Section], parents: list[Any]) -> list[str]:
    """Return the keys of the section at `parents`, through tuples, unions and named entries."""
    for name in parents:
        if name in model.model_fields:
            model = _section_in(model.model_fields[name].annotation) or model
    return list(model.model_fields)


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = (_section_in(part) for part in get_args(annotation))
    return next((section for section in found if section), None)
