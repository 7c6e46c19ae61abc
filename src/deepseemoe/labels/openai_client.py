"""Ask an OpenAI-compatible server: a few requests at once, again where needed, failures named."""

import asyncio
import logging
import os
from typing import Any, Self, TypeVar

import openai
from pydantic import BaseModel

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.answers import Answers
from deepseemoe.labels.forms import read_form

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=BaseModel)
Messages = list[dict[str, str]]

FATAL = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
"""No later request would fare better: wrong key, model or address."""


class Unanswered(Exception):
    """The server gave no readable answer after all retries; the caller counts it."""


class Client:
    """Asks one model of one server; use it as an async context manager.

    The key is read from the environment and handed to the client; it is never logged or stored.
    Raises ValueError where it is missing.
    """

    def __init__(self, config: LabelsConfig, answers: Answers):
        self._config, self._answers = config, answers
        self._client = openai.AsyncOpenAI(
            api_key=api_key(config), base_url=config.base_url, max_retries=config.max_retries
        )
        self._free = asyncio.Semaphore(config.concurrency)
        self._options: dict[str, Any] = {"temperature": 0.0}
        logging.getLogger("httpx").setLevel("WARNING")  # else one line a request

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, prompt: str, form: type[F], **context: Any) -> F:
        """Return the answer to `prompt` as a `form`, checked against `context`.

        An unreadable answer is asked for again, with what was wrong. Raises Unanswered after
        `max_retries` of these or of the server's errors; ValueError where asking is of no use.
        """
        messages: Messages = [{"role": "user", "content": prompt}]
        problem = ""
        for _ in range(self._config.max_retries + 1):
            text = await self._answer(messages)
            try:
                return read_form(text, form, context)
            except ValueError as error:
                problem = str(error)
                messages = [*messages, *_correction(text, problem)]
        raise Unanswered(f"no readable answer: {problem}")

    async def _answer(self, messages: Messages) -> str:
        """Return the answer, from the book or from the server."""
        asked = {"model": self._config.model, "messages": messages}
        kept = self._answers.get(asked)
        if kept is not None:
            return kept
        async with self._free:
            text = await self._request(messages)
        self._answers.add(asked, text)
        return text

    async def _request(self, messages: Messages) -> str:
        options = self._options
        try:
            reply = await self._client.chat.completions.create(
                model=self._config.model, messages=messages, **options
            )
        except FATAL as error:
            raise ValueError(f"{self._where()}: {error}; check key, model and base_url") from None
        except openai.APITimeoutError as error:
            raise Unanswered(str(error)) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise ValueError(
                f"{self._where()}: no connection ({cause}); start the server or set "
                "labels.base_url; answers so far are kept"
            ) from None
        except openai.BadRequestError as error:
            if options and "temperature" in str(error):  # some models know no temperature
                self._options = {}
                return await self._request(messages)
            raise Unanswered(str(error)) from None
        except openai.APIError as error:
            raise Unanswered(str(error)) from None
        return (reply.choices[0].message.content if reply.choices else None) or ""

    def _where(self) -> str:
        return f"{self._config.base_url or 'OpenAI'}, model {self._config.model}"


def api_key(config: LabelsConfig) -> str:
    """Return the key from the environment; raise ValueError where it is not set."""
    key = os.environ.get(config.api_key_env)
    if not key:
        raise ValueError(
            f"labels.labeller openai: environment variable {config.api_key_env} is not set; "
            "export it (a local server takes any text), or set labels.labeller: offline"
        )
    return key


def _correction(text: str, problem: str) -> Messages:
    """Return the messages that ask again; the answer is cut, as runaway ones fill the context."""
    request = f"That cannot be read: {problem}. Answer with the JSON object alone."
    return [
        {"role": "assistant", "content": text[:2000] or "(nothing)"},
        {"role": "user", "content": request},
    ]
