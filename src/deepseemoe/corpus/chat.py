"""Chats as documents: a list of messages becomes one text by the tokenizer's own chat template.

A template writes control tokens (`<|start|>`), and the text is encoded with these as the tokens
that they name. A message that spells one would end itself there, so its document is dropped.
"""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

CHAT_DATE = datetime(2025, 8, 5)
"""What templates take for today (gpt-oss's writes the date): the same run gives the same bytes."""

_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")


class Chat:
    """The chat template of a tokenizer; raises ValueError where it has none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if not tokenizer.chat_template:
            raise ValueError(
                f"corpus.chat_key: the tokenizer {tokenizer.name_or_path} has no chat template; "
                "name a model that was trained on chats, or text at text_key"
            )
        self._template = _dated(tokenizer.get_chat_template(), tokenizer.name_or_path)
        added = tokenizer.added_tokens_decoder.values()
        control = [re.escape(token.content) for token in added if token.special]
        self._tokenizer = tokenizer
        self._control = re.compile("|".join(control) or r"(?!)")

    def render(self, messages: Any) -> tuple[str, str | None]:
        """Return a chat as text, or why it is no document, of `documents.REASONS`."""
        if not _is_chat(messages):
            return "", "bad_chat"
        if self._control.search(json.dumps(messages, ensure_ascii=False, default=str)):
            return "", "control_token"
        try:
            return self._rendered([_without_nulls(message) for message in messages]), None
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError):
            return "", "bad_chat"  # roles in an order, or contents, that the template refuses

    def _rendered(self, messages: Sequence[dict[str, Any]]) -> str:
        return self._tokenizer.apply_chat_template(
            messages, chat_template=self._template, tokenize=False
        )


def _dated(template: str, name: str) -> str:
    """Return a template that writes CHAT_DATE where it would ask for today's."""
    dated = _TODAY.sub(lambda call: repr(CHAT_DATE.strftime(call[2])), template)
    if "strftime_now(" in dated:
        raise ValueError(
            f"corpus.chat_key: the chat template of {name} writes today's date in a format that it "
            "makes up; no run could be repeated: write a fixed one into chat_template.jinja"
        )
    return dated


def _is_chat(messages: Any) -> bool:
    """Whether there is a message, and each has a role and a content that are text."""
    if not isinstance(messages, list) or not messages:
        return False
    return all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in messages
    )


def _without_nulls(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message without keys that parquet fills up; templates ask whether one is there."""
    return {key: value for key, value in message.items() if value is not None}
