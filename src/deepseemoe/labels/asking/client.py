"""Ask a model of a server: questions become filled-in forms, or failures with a name."""

import asyncio
import base64
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import numpy as np
from pydantic import BaseModel

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.answers import Answers, content_hash
from deepseemoe.labels.asking.bill import Bill
from deepseemoe.labels.asking.budget import UNLIMITED, Budget
from deepseemoe.labels.asking.exchange import Exchange, Kept, Request
from deepseemoe.labels.asking.failures import (
    SHOWN_AGAIN,
    Answer,
    Fault,
    answer_of,
    read_answer,
    token_count,
)
from deepseemoe.labels.asking.probe import Abilities, probe, probe_chances, response_format
from deepseemoe.labels.asking.question import Asker, Failure, Question, Unanswered, Usage
from deepseemoe.labels.asking.reply import Reply
from deepseemoe.labels.asking.secrets import scrubbed_logs

logger = logging.getLogger(__name__)

Messages = list[dict[str, str]]

BYTES = 3
"""Of a token, at least: English has four, code and names fewer, Chinese three"""

AGAIN: dict[Failure, int | None] = {
    "empty": None,
    "unreadable": None,
    "other_language": None,
    "repeated": 1,
}
"""Answers of no use that are asked for again, and how often at most; None is `max_retries`. A loop
costs a whole answer each time, and a refusal stays one."""


class Client:
    """Asks one model of one server; use it as an async context manager.

    The key is read from the environment and never logged or kept. Raises Stopped, in one line,
    where it is missing; at entry where key, address or model are wrong.
    """

    def __init__(
        self, config: LabelsConfig, answers: Answers, *, bill: Bill, budget: Budget = UNLIMITED
    ):
        self.config, self.bill = config, bill
        self.exchange = Exchange(config, answers, bill, budget)
        self.abilities = Abilities()
        self._knows_chances = asyncio.Lock()
        self._asked_chances = False
        what = config.model, config.structured, config.request
        self._learnt = content_hash({"kind": "learnt", "what": what})
        self._on_exit = ExitStack()

    async def __aenter__(self) -> Self:
        self._on_exit.enter_context(scrubbed_logs(self.exchange.scrub))
        try:
            await self.exchange.open()
            self.abilities = await probe(self.exchange)
            learnt = self.exchange.answers.get(self._learnt)
            if learnt is not None:
                self.abilities = Abilities(**learnt)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        with self._on_exit:
            await self.exchange.close()

    def asker(self) -> Asker:
        """Return an asker with no usage so far."""
        return ItemAsker(self)

    def learns(self, reply: Reply, sent: Mapping[str, Any]) -> bool:
        """Return whether requests can do without what the server rejected; they do from now on."""
        learnt = self.abilities.without(reply, sent)
        if learnt is None:
            return False
        if self.config.structured != "auto" and learnt.way != self.abilities.way:
            return False  # the user wants it so
        logger.info("the server rejects a part of requests (%s); going on without", reply.said)
        self.abilities = learnt
        self.exchange.answers.add(self._learnt, learnt._asdict())
        return True

    async def gives_chances(self) -> bool:
        """Return whether the server gives log-probabilities; asks it the first time."""
        async with self._knows_chances:
            if not self._asked_chances:
                self.abilities = await probe_chances(self.exchange, self.abilities)
                self._asked_chances = True
        return self.abilities.n_alternatives > 0


class ItemAsker:
    """Asks on behalf of one feature or expert; see `question.Asker`."""

    def __init__(self, client: Client):
        self.usage = Usage()
        self._client = client

    async def ask(self, question: Question) -> Any:
        """Return the filled-in form; an answer of no use is asked for again, with what was wrong.

        Raises Unanswered with what was wrong last, or Stopped.
        """
        messages: Messages = [{"role": "user", "content": _sendable(question.prompt)}]
        most = self._client.config.max_retries
        for attempt in range(most + 1):
            answer = Answer.of_plain(await self._answer(_Chat(self._client, messages, question)))
            read = read_answer(answer, question)
            if not isinstance(read, Fault):
                return self._clean(read, question)
            allowed = AGAIN.get(read.status, 0)
            if attempt >= (most if allowed is None else min(allowed, most)):
                raise self._failed(read.status, read.reason)
            messages = [*messages, *_correction(answer.text, read)]
        raise AssertionError("the last attempt returns or raises")

    def _clean(self, form: BaseModel, question: Question) -> BaseModel:
        """Return a form again scrubbed: its JSON may have spelt a key by escapes."""
        plain = self._client.exchange.scrub.plain(form.model_dump())
        return question.form.model_validate(plain, context=dict(question.context))

    async def chances(self, prompt: str, *, purpose: str) -> list[dict[str, float]]:
        """Return, for each token of the answer, the log-probabilities of its alternatives."""
        if not await self._client.gives_chances():
            raise self._failed("rejected", "the server gives no log-probabilities")
        messages = [{"role": "user", "content": _sendable(prompt)}]
        question = Question(prompt, BaseModel, {}, purpose)
        kept = await self._answer(_Chances(self._client, messages, question))
        answer = Answer.of_plain(kept)
        if answer.rejected:
            raise self._failed("rejected", answer.rejected)
        if answer.chances is None:
            raise self._failed("empty", "the answer has no log-probabilities")
        return answer.chances

    async def embed(self, texts: list[str], *, purpose: str) -> list[list[float]]:
        """Return a vector of each text, in single precision."""
        if not texts:
            return []
        kept = await self._answer(_Embedding(self._client, texts, purpose))
        if "rejected" in kept:
            raise self._failed("rejected", kept["rejected"])
        if "vectors" not in kept:
            raise self._failed("unreadable", f"the answer has no vectors of {len(texts)} texts")
        flat = np.frombuffer(base64.b64decode(kept["vectors"]), "<f4")
        return [row.tolist() for row in flat.reshape(len(texts), -1)]

    async def _answer(self, request: Request) -> Kept:
        try:
            kept = await self._client.exchange.answer(request)
        except Unanswered as failed:
            raise self._failed(failed.status, str(failed)) from None
        self.usage = self.usage.plus(Usage(*kept["usage"]))
        return kept

    def _failed(self, status: Failure, reason: str) -> Unanswered:
        self._client.bill.failed(status)
        return Unanswered(status, self._client.exchange.scrub.line(reason))


class _Chat(Request):
    """Messages that a form is expected in answer to."""

    kind = "chat"

    def __init__(self, client: Client, messages: Messages, question: Question):
        config = client.config
        self._client, self._messages, self._question = client, messages, question
        self._length = sum(len(message["content"]) for message in messages)
        n_bytes = sum(len(message["content"].encode()) for message in messages)
        self.most = Usage(n_bytes // BYTES + 1, _longest_answer(config), 1)
        self.purpose = question.purpose
        self.asked = {"kind": self.kind, "model": config.model, "messages": messages}
        if config.request:
            self.asked["request"] = config.request

    def extra(self) -> dict[str, Any]:
        """Return the keys of this kind of request."""
        way = self._client.abilities.way
        return response_format(way, self._question.form, self._question.context)

    def body(self) -> dict[str, Any]:
        config = self._client.config
        options = self._client.abilities.options(config.request, config.max_answer_tokens)
        self._sent = {"model": config.model, "messages": self._messages, **options, **self.extra()}
        return self._sent

    def adapts(self, reply: Reply) -> bool:
        """Return whether the client knows better now, by this reply or that to another request."""
        sent = self._sent
        return self.body() != sent or self._client.learns(reply, sent)

    def keep(self, body: Any) -> Kept:
        answer = answer_of(body, prompt_length=self._length)
        if answer.finish == "length":
            answer = answer._replace(most=self._client.config.max_answer_tokens)
        return answer.plain()

    def is_good(self, kept: Kept) -> bool:
        """Return false for an answer that was cut off where it may be longer now."""
        return kept.get("most", np.inf) >= self._client.config.max_answer_tokens


class _Chances(_Chat):
    """Messages of whose answer the log-probabilities are wanted."""

    kind = "chances"

    def extra(self) -> dict[str, Any]:
        return {"logprobs": True, "top_logprobs": self._client.abilities.n_alternatives}


class _Embedding(Request):
    """Texts that vectors are wanted of."""

    endpoint = "embeddings"

    def __init__(self, client: Client, texts: Sequence[str], purpose: str):
        self.purpose, self._texts = purpose, [_sendable(text) for text in texts]
        self._body = {"model": client.config.embedding_model, "input": self._texts}
        self.asked = {"kind": "embedding", **self._body}
        self.most = Usage(sum(len(text.encode()) for text in self._texts) // BYTES + 1, 0, 1)

    def body(self) -> dict[str, Any]:
        return self._body

    def keep(self, body: Any) -> Kept:
        body = body if isinstance(body, dict) else {}
        usage = body.get("usage")
        said = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        kept = {"usage": [token_count(said, self.most.n_in), 0, 1]}
        vectors = _vectors(body.get("data"), len(self._texts))
        if vectors is None:
            return kept
        return {**kept, "vectors": base64.b64encode(vectors.tobytes()).decode()}


def _vectors(entries: Any, count: int) -> np.ndarray | None:
    """Return the vectors of an answer in the order of the texts; None where they are not there."""
    try:
        ordered = sorted(entries, key=lambda entry: entry.get("index", 0))
        with np.errstate(over="ignore"):
            vectors = np.array([entry["embedding"] for entry in ordered], "<f4")
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None
    is_good = vectors.ndim == 2 and len(vectors) == count and np.isfinite(vectors).all()
    return vectors if is_good else None


def _longest_answer(config: LabelsConfig) -> int:
    """Return the tokens that an answer may have; the user's own key for it goes first."""
    own = (config.request.get(name) for name in ("max_tokens", "max_completion_tokens"))
    return max([config.max_answer_tokens, *(one for one in own if isinstance(one, int))])


def _sendable(text: str) -> str:
    """Return a text without halves of characters, which no request can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _correction(text: str, fault: Fault) -> Messages:
    """Return the messages that ask again."""
    request = f"That is of no use: {fault.reason}. Answer in English with the JSON object alone."
    return [
        {"role": "assistant", "content": text[:SHOWN_AGAIN] or "(nothing)"},
        {"role": "user", "content": request},
    ]
