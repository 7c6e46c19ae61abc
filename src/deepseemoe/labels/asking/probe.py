"""What a server can do, tried with tiny requests at entry instead of believed.

Some servers accept `response_format` and ignore it, some know `max_completion_tokens` only, some no
temperature. Each try is a request as any other: kept, so a resumed run knows without asking.
"""

import json
import logging
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from deepseemoe.labels.asking.exchange import Exchange, Kept, Request
from deepseemoe.labels.asking.failures import Answer, answer_of
from deepseemoe.labels.asking.forms import json_schema
from deepseemoe.labels.asking.question import Unanswered, Usage
from deepseemoe.labels.asking.reply import Reply

logger = logging.getLogger(__name__)

Way = Literal["json_schema", "json_object", "none"]
WAYS: tuple[Way, ...] = ("json_schema", "json_object", "none")

PROMPT = "Say hello in one word. Do not write JSON."
"""Names JSON, as OpenAI wants it for `json_object`, and asks for none: who answers in JSON was
made to."""

WORD = "amber-17"
SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string", "enum": [WORD]}},
    "required": ["word"],
    "additionalProperties": False,
}

N_ALTERNATIVES = (20, 5)
"""Alternatives of a token with log-probabilities; OpenAI and vLLM give 20, others fewer."""


class Abilities(NamedTuple):
    """How requests to a server look."""

    way: Way = "none"
    token_key: str | None = "max_tokens"
    """What limits an answer is called; None where nothing may"""
    has_temperature: bool = True
    n_alternatives: int = 0
    """Alternatives of each token that it gives log-probabilities of; 0 is none"""

    def options(self, config_request: Mapping[str, Any], n_tokens: int) -> dict[str, Any]:
        """Return the keys of a request beside model, messages and form; the user's go first."""
        ours: dict[str, Any] = {}
        if self.has_temperature:
            ours["temperature"] = 0.0
        if self.token_key and not {"max_tokens", "max_completion_tokens"} & set(config_request):
            ours[self.token_key] = n_tokens
        return {**ours, **config_request}

    def without(self, reply: Reply, sent: Mapping[str, Any]) -> "Abilities | None":
        """Return abilities that avoid what a server rejected; None where it means something else.

        `sent` are the keys of the rejected request.
        """
        said = f"{reply.error.get('param') or ''} {reply.said}".lower()
        if self.token_key in sent and self.token_key in said and _is_unknown(said):
            other = {"max_tokens": "max_completion_tokens"}.get(self.token_key)
            return self._replace(token_key=other)
        if "temperature" in sent and "temperature" in said and self.has_temperature:
            return self._replace(has_temperature=False)
        is_form = any(name in said for name in ("response_format", "json_schema", "json_object"))
        is_form = is_form or "schema" in said or "grammar" in said
        if "response_format" in sent and self.way != "none" and is_form:
            return self._replace(way=WAYS[WAYS.index(self.way) + 1])
        return None


def response_format(way: Way, form: type[BaseModel], context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key that makes a server fill in a form, empty where it does not."""
    return _format(way, form.__name__, json_schema(form, context) if way == "json_schema" else {})


def _format(way: Way, name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    if way == "none":
        return {}
    if way == "json_object":
        return {"response_format": {"type": "json_object"}}
    inner = {"name": name, "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": inner}}


class _Try(Request):
    """One tiny request; a rejection is an answer here.

    The address is no part of what is asked: servers of a batch system have another one each time.
    """

    purpose = "probe"

    def __init__(self, exchange: Exchange, abilities: Abilities, extra: Mapping[str, Any]):
        config = exchange.config
        options = abilities.options(config.request, config.max_answer_tokens)
        messages = [{"role": "user", "content": PROMPT}]
        self._body = {"model": config.model, "messages": messages, **options, **extra}
        self.asked = {"kind": "probe", **self._body}
        self.most = Usage(len(PROMPT), config.max_answer_tokens, 1)
        self.reply = Reply(200, {})

    def body(self) -> dict[str, Any]:
        return self._body

    def keep(self, body: Any) -> Kept:
        return answer_of(body, prompt_length=len(PROMPT)).plain()


async def probe(exchange: Exchange) -> Abilities:
    """Return what the server can do with questions.

    Raises Stopped where key, address or model are wrong; where the server keeps failing on these
    requests but is there, nothing is expected of it.
    """
    wanted = exchange.config.structured
    way: Way = WAYS[0] if wanted == "auto" else wanted
    abilities = Abilities(way=way)
    try:
        while True:
            extra = _format(abilities.way, "Word", SCHEMA)
            answer, adapted = await _try(exchange, abilities, extra)
            if adapted is not None and (wanted == "auto" or adapted.way == abilities.way):
                abilities = adapted
            elif wanted != "auto" or _enforces(abilities.way, answer):
                break
            else:
                abilities = abilities._replace(way=WAYS[WAYS.index(abilities.way) + 1])
    except Unanswered as failed:
        if not exchange.is_reached:
            exchange.stop(f"{failed}; start the server or check labels.base_url")
        logger.warning("the server fails on a tiny request (%s); asking it all the same", failed)
        abilities = abilities._replace(way="none" if wanted == "auto" else wanted)
    else:
        if answer.is_odd and answer.text.lower().startswith(("<!doctype", "<html")):
            exchange.stop("answers with a web page; check labels.base_url, which often ends in /v1")
    logger.info("%s: structured output by %s", exchange.where, abilities.way)
    return abilities


async def probe_chances(exchange: Exchange, abilities: Abilities) -> Abilities:
    """Return the abilities with how many alternatives have log-probabilities."""
    for count in N_ALTERNATIVES:
        extra = {"logprobs": True, "top_logprobs": count}
        try:
            answer, _ = await _try(exchange, abilities, extra)
        except Unanswered:
            return abilities
        if answer.chances and len(answer.chances[0]) > 1:
            return abilities._replace(n_alternatives=count)
    return abilities


async def _try(
    exchange: Exchange, abilities: Abilities, extra: Mapping[str, Any]
) -> tuple[Answer, Abilities | None]:
    """Return the answer to a tiny request, and abilities that avoid what was rejected in it."""
    request = _Try(exchange, abilities, extra)
    answer = Answer.of_plain(await exchange.answer(request))
    if not answer.rejected:
        return answer, None
    return answer, abilities.without(Reply(400, answer.rejected), request.body())


def _enforces(way: Way, answer: Answer) -> bool:
    """Return whether an answer shows that its form was enforced."""
    if way == "none":
        return True
    try:
        value = json.loads(answer.text)
    except ValueError:
        return False
    return isinstance(value, dict) and (way == "json_object" or value.get("word") == WORD)


def _is_unknown(said: str) -> bool:
    """Return whether a server rejects a key as such, not its value or the length of a prompt."""
    words = r"instead|unsupported|not supported|unrecogni[sz]ed|unknown|extra|not permitted"
    return re.search(words, said) is not None
