"""What a language model is asked to fill in, and how its answer is read.

Servers differ in whether they enforce a format, and some accept such a request and ignore it
(`transformers serve` 5.23 does), so the format stands in the prompt and the answer is read
tolerantly and validated strictly.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
)
from pydantic import field_validator as validates

Line = Annotated[
    str,
    AfterValidator(lambda text: " ".join(text.split())),
    StringConstraints(strip_whitespace=True, min_length=1, max_length=300),
]


class Description(BaseModel):
    """The answer to prompts/explain.txt and explain_expert.txt."""

    reasons: str = ""
    label: Line


class _OneEach(BaseModel):
    """A form whose lists have an entry for each passage: `n_texts` of the context."""

    @validates("*")
    @classmethod
    def _one_each(cls, entries: Any, info: ValidationInfo) -> Any:
        wanted = (info.context or {}).get("n_texts")
        if isinstance(entries, list) and wanted is not None and len(entries) != wanted:
            raise ValueError(f"{len(entries)} entries for {wanted} passages")
        return entries


class Detections(_OneEach):
    """The answer to prompts/detect.txt, 1 for each passage with what is described, else 0."""

    present: list[bool]


class Marks(_OneEach):
    """The answer to prompts/fuzz.txt, 1 for each passage whose marks are right, else 0."""

    right: list[bool]


class Likelihoods(_OneEach):
    """The answer to prompts/route.txt, from 0 (surely not) to 4 (surely) for each passage."""

    likely: list[Annotated[int, Field(ge=0, le=4)]]


class Intruder(BaseModel):
    """The answer to prompts/intruder.txt: the number, from 1, of the passage that does not fit."""

    intruder: Annotated[int, Field(ge=1)]

    @validates("intruder")
    @classmethod
    def _is_there(cls, intruder: int, info: ValidationInfo) -> int:
        n_texts = (info.context or {}).get("n_texts")
        if n_texts is not None and intruder > n_texts:
            raise ValueError(f"there are only {n_texts} passages")
        return intruder


F = TypeVar("F", bound=BaseModel)


def read_form(text: str, form: type[F], context: Mapping[str, Any]) -> F:
    """Return the last object in an answer that fits `form`; raise ValueError saying what is wrong.

    The last, because models that think aloud try things first. Fences and words around it are no
    matter.
    """
    problem = "it holds no JSON object"
    for value in reversed(list(_objects(text))):
        try:
            return form.model_validate(value, context=dict(context))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            problem = f"{where}: {first['msg'].removeprefix('Value error, ')}"
    raise ValueError(problem)


def json_schema(form: type[BaseModel], context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a form in the subset that strict structured output knows.

    Every field is required, booleans are 0 and 1 as the prompts ask for them, lists have
    `n_texts` entries.
    """
    fields = form.model_json_schema()["properties"]
    properties = {name: _plain_schema(field, context) for name, field in fields.items()}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _plain_schema(field: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    kind, n_texts = field["type"], context.get("n_texts")
    if kind == "array":
        plain = {"type": "array", "items": _plain_schema(field["items"], context)}
        return plain if n_texts is None else {**plain, "minItems": n_texts, "maxItems": n_texts}
    if kind == "boolean":
        return {"type": "integer", "enum": [0, 1]}
    low, high = field.get("minimum"), field.get("maximum", n_texts)
    if kind == "integer" and low is not None and high is not None:
        return {"type": "integer", "enum": list(range(low, high + 1))}
    return {"type": kind}


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in a text, outermost ones only."""
    decoder, start = json.JSONDecoder(), 0
    while (start := text.find("{", start)) >= 0:
        try:
            value, start = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):  # also numbers of thousands of digits
            start += 1
            continue
        yield value
