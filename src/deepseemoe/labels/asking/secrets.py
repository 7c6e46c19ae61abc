"""The key: read from the environment, and kept out of everything that is written.

A server may echo it in an error or an answer, so texts of the server are scrubbed when they come
in, and as a last net every log record while a client is open.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.question import Stopped

PART = 8
"""Letters of the key that give it away. A shorter key, as `none` for a server of one's own, is no
secret: to cut it out would spoil texts."""

HIDDEN = "⟨key⟩"

LOOKED_AT = 4000
"""Letters of a message that are read; the rest is no news."""

_MASKED = re.compile(r"[^\s*]{0,64}\*{3,}[^\s*]{0,64}")


def api_key(config: LabelsConfig) -> str:
    """Return the key from the environment; raise Stopped where it is not set or cannot be one."""
    name = config.api_key_env
    key = os.environ.get(name, "")
    if not key:
        raise Stopped(
            f"labels.labeller openai: environment variable {name} is not set; "
            "export it (a local server takes any text), or set labels.labeller: offline"
        )
    if not re.fullmatch(r"[!-~]+", key):
        spoilt = "white space" if re.search(r"\s", key) else "a character that is not ASCII"
        raise Stopped(
            f"labels.api_key_env: the key in {name} holds {spoilt}, perhaps a line end; "
            "export it without"
        )
    return key


def where_of(config: LabelsConfig) -> str:
    """Return which model of which server is asked, for messages."""
    address = config.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    parts = urlsplit(address)
    shown = urlunsplit((parts.scheme, parts.netloc.split("@")[-1], parts.path, "", ""))
    return f"{shown.rstrip('/')}, model {config.model}"


class Scrubber:
    """Cuts a key out of texts, and every part of it of `PART` letters or more."""

    def __init__(self, key: str):
        self._parts = sorted({key[n : n + PART] for n in range(len(key) - PART + 1)})

    def __call__(self, text: str) -> str:
        """Return the text without the key, and without halves of characters: no file holds them."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        found = [part for part in self._parts if part in text]
        if not found:
            return text
        spans = sorted(
            match.span()
            for part in found
            for match in re.finditer(f"(?=({re.escape(part)}))", text)
            for match in (re.compile(re.escape(part)).match(text, match.start()),)
            if match
        )
        parts, end = [], 0
        for first, last in spans:
            if first > end or not parts:
                parts += [text[end:first], HIDDEN]
            end = max(end, last)
        return "".join([*parts, text[end:]])

    def plain(self, value: Any) -> Any:
        """Return plain data without the key in any of its texts."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {self(str(name)): self.plain(one) for name, one in value.items()}
        if isinstance(value, list):
            return [self.plain(one) for one in value]
        return value

    def line(self, text: str, *, most: int = 300) -> str:
        """Return what a server says of a failure as one line, also without masked keys."""
        said = " ".join(_MASKED.sub(HIDDEN, self(text[:LOOKED_AT])).split())
        return said if len(said) <= most else said[: most - 1] + "…"


@contextmanager
def scrubbed_logs(scrub: Scrubber) -> Iterator[None]:
    """Keep the key out of all log records, whoever writes them, their tracebacks too.

    A filter of a logger does not see what its children log, so the records themselves are made
    without the key.
    """
    before = logging.getLogRecordFactory()
    formatter = logging.Formatter()

    def record_of(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        said = record.getMessage()
        if (clean := scrub(said)) != said:
            record.msg, record.args = clean, ()
        if record.exc_info:
            record.exc_text = scrub(formatter.formatException(record.exc_info))
        return record

    logging.setLogRecordFactory(record_of)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)
