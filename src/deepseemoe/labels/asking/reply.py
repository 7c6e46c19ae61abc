"""What came back from a server, in plain data."""

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Endpoint = Literal["chat", "embeddings"]


class Reply(NamedTuple):
    """What a server said, or that it said nothing."""

    status: int | None
    """None: no answer, as of a cut connection"""
    body: Any
    """JSON as plain data; a text where it is none"""
    headers: Mapping[str, str] = {}
    problem: str = ""
    """Where there is no answer: why, in one line"""
    is_reached: bool = True
    """Whether there is a server at all"""

    @property
    def error(self) -> Mapping[str, Any]:
        """The error object of the body, empty where there is none."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        if isinstance(error, str):
            return {"message": error}
        if not error and self.status != 200 and isinstance(self.body, dict):
            return self.body  # some servers say {"message": …} or {"detail": …}
        return error if isinstance(error, dict) else {}

    @property
    def said(self) -> str:
        """What went wrong, in the server's words as far as it has some."""
        error = self.error
        message = error.get("message") or error.get("detail") or self.problem
        if not message:
            message = self.body if isinstance(self.body, str) else ""
        text = message if isinstance(message, str) else json.dumps(message)
        return f"{self.status or 'no answer'}: {text}".removesuffix(": ")
