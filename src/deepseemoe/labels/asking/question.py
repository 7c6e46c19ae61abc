"""What is asked, what comes back, and what it is called when nothing readable does."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel

Failure = Literal[
    "empty", "refused", "unreadable", "repeated", "other_language", "rejected", "server", "budget"
]
"""Why a question has no answer. `rejected`: the server takes this request for wrong (too long, a
filter); `server`: it kept failing after all retries; `budget`: it was not asked; the others are
answers of no use."""


class Question(NamedTuple):
    """One request, and the form that its answer must fill in."""

    prompt: str
    form: type[BaseModel]
    context: Mapping[str, Any] = {}
    """What the form is validated with, as {"n_texts": 5}"""
    purpose: str = ""
    """What the bill lists it under, as `explain` or `detection`"""


class Usage(NamedTuple):
    """What requests took. Adds up by `+` of `Usage.plus`."""

    n_in: int = 0
    n_out: int = 0
    n_calls: int = 0

    def plus(self, other: "Usage") -> "Usage":
        """Return both together."""
        return Usage(*(one + two for one, two in zip(self, other, strict=True)))

    @property
    def n_tokens(self) -> int:
        """Tokens in and out."""
        return self.n_in + self.n_out


class Unanswered(Exception):
    """One question has no readable answer after all retries; the caller counts it."""

    def __init__(self, status: Failure, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason


class Stopped(ValueError):
    """No further question would fare better: wrong key, address or model, or no quota left."""


class Asker(Protocol):
    """Asks on behalf of one feature or expert, and keeps count of what that took."""

    usage: Usage
    """Of all answers so far, those of an earlier run too, so that a resumed run counts the same"""

    async def ask(self, question: Question) -> Any:
        """Return the filled-in form; raise Unanswered, or Stopped."""
        ...

    async def chances(self, prompt: str, *, purpose: str) -> list[dict[str, float]]:
        """Return, for each token of the answer, the log-probabilities of its alternatives.

        Raises Unanswered where the server gives none.
        """
        ...

    async def embed(self, texts: list[str], *, purpose: str) -> list[list[float]]:
        """Return a vector of each text."""
        ...
