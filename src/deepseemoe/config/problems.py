"""What pydantic finds wrong, told as lines that a user can act on.

A line says where (dots between keys), what was expected, and what was found. Alternatives of one
key (a number or a word) are one line, not one each.
"""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "lower-case letters, digits and dashes alone, as my-run",
    "dict_type": "keys and values",
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "tuple_type": "a list, as [a, b]",
    "list_type": "a list, as [a, b]",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    "literal_error": "{expected}",
    "invalid_key": "a key that is text",
    "too_short": "{min_length} or more entries",
}
"""What pydantic's types of errors expect; blanks stand for what its error carries."""

_SHOWN = 80
"""Characters of a value that are shown."""


class _Problem(NamedTuple):
    place: tuple[Any, ...]
    """Keys and numbers as the user wrote them."""
    error: Mapping[str, Any]
    is_alternative: bool
    """Whether it is one of the kinds that the key can be of."""


def lines_of(
    model: type[BaseModel], raw: Any, errors: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Yield one line for each place of `raw` that is not as `model` wants it."""
    found: dict[tuple[Any, ...], list[_Problem]] = {}
    for error in errors:
        place, is_alternative = _place(raw, error)
        found.setdefault(place, []).append(_Problem(place, error, is_alternative))
    for place, problems in found.items():
        deeper = any(other[: len(place)] == place for other in found if len(other) > len(place))
        told = [one for one in problems if not (deeper and _is_told_deeper(one))]
        if told:
            yield _line(model, told)


def _place(raw: Any, error: Mapping[str, Any]) -> tuple[tuple[Any, ...], bool]:
    """Return the place without the names that pydantic gives the alternatives of a union."""
    place: list[Any] = []
    is_alternative = False
    for number, part in enumerate(error["loc"]):
        is_last = number == len(error["loc"]) - 1
        if isinstance(raw, Mapping) and part in raw:
            raw = raw[part]
        elif isinstance(raw, (list, tuple)) and isinstance(part, int):
            raw = raw[part] if part < len(raw) else None
        elif not (is_last and error["type"] == "missing"):
            is_alternative = is_alternative or part != "[key]"
            continue
        place.append(part)
    return tuple(place), is_alternative


def _is_told_deeper(problem: _Problem) -> bool:
    """Return whether what lies deeper says more: of another alternative, or of what is left."""
    return problem.is_alternative or problem.error["type"] == "too_short"


def _line(model: type[BaseModel], problems: Sequence[_Problem]) -> str:
    """Return the problems of one place as a line."""
    place, error, _ = problems[0]
    where = ".".join(map(str, place))
    if error["type"] == "extra_forbidden":
        near = get_close_matches(str(place[-1]), _keys(model, place[:-1]), n=1)
        return f"  {where}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
    if error["type"] == "missing":
        return f"  {where}: is missing; write it"
    message = _message(problems)
    if "password" in message:
        return f"  {where}: {message}"
    is_rule = error["type"] == "value_error" and isinstance(error["input"], Mapping)
    if is_rule:  # a rule across fields names its fields itself
        return f"  {where}: {message}" if where else f"  {message}"
    return f"  {where}: {message} (found {_shown(error['input'])})"


def _message(problems: Sequence[_Problem]) -> str:
    """Return what was expected, all alternatives together, and the nearest word."""
    errors = [one.error for one in problems]
    if errors[0]["type"] == "value_error":
        return str(errors[0]["msg"]).removeprefix("Value error, ")
    expected = dict.fromkeys(_expected(error) for error in errors)
    message = f"expected {', or '.join(expected)}"
    words = [word for e in errors if e["type"] == "literal_error" for word in _options(e)]
    near = get_close_matches(str(errors[0]["input"]), words, n=1)
    return message + (f"; did you mean {near[0]!r}?" if near else "")


def _expected(error: Mapping[str, Any]) -> str:
    told = _EXPECTED.get(error["type"])
    return told.format(**error.get("ctx", {})) if told else str(error["msg"])


def _options(error: Mapping[str, Any]) -> list[str]:
    """Return the choices that pydantic lists, as in "'a', 'b' or 'c'"."""
    return str(error["ctx"]["expected"]).split("'")[1::2]


def _shown(value: Any) -> str:
    """Return a value as it is written in YAML, and not all of a long one."""
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    text = repr(value) if isinstance(value, (str, int, float, list, dict, tuple)) else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"


def _keys(model: type[BaseModel], parents: Sequence[Any]) -> list[str]:
    """Return the keys of the section at `parents`, through tuples, unions and named entries."""
    for name in parents:
        if name in model.model_fields:
            model = _section_in(model.model_fields[name].annotation) or model
    return list(model.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_section_in(part) for part in get_args(annotation))
    return next((section for section in found if section), None)
