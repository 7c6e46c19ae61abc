"""What a language model is asked to fill in, and how its answer is read.

Servers differ in whether they enforce a format, and some accept such a request and ignore it
(`transformers serve` 5.23 does), so the format stands in the prompt and the answer is read
tolerantly and validated strictly.
"""

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from string import Template
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, StringConstraints, ValidationError, ValidationInfo
from pydantic import field_validator as validates

Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300)]


class Description(BaseModel):
    """The answer to prompts/explain.txt."""

    label: Line
    reasons: str = ""


class Detections(BaseModel):
    """The answer to prompts/detect.txt, 1 for each passage with what is described, else 0."""

    present: list[bool]

    @validates("present")
    @classmethod
    def _one_each(cls, present: list[bool], info: ValidationInfo) -> list[bool]:
        wanted = (info.context or {}).get("n_texts", len(present))
        if len(present) != wanted:
            raise ValueError(f"{len(present)} entries for {wanted} passages")
        return present


F = TypeVar("F", bound=BaseModel)


def prompt(name: str, **values: Any) -> str:
    """Return a prompt of this package with its blanks filled in."""
    text = files("deepseemoe.labels").joinpath("prompts", f"{name}.txt").read_text("utf-8")
    return Template(text).substitute(values)


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


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in a text, outermost ones only."""
    decoder, start = json.JSONDecoder(), 0
    while (start := text.find("{", start)) >= 0:
        try:
            value, start = decoder.raw_decode(text, start)
        except json.JSONDecodeError:
            start += 1
            continue
        yield value
