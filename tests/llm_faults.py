"""What a server can do wrong, one value each, and plans that say when it does."""

import hashlib
import json
from typing import Any, NamedTuple


class Fault(NamedTuple):
    """What is done in place of a good answer; the fields left out stay as they should be."""

    status: int = 200
    value: Any = None
    """The body, in place of ours; a string is sent as it is"""
    headers: dict = {}
    seconds: float = 0.0
    """Waits so long first; the client has given up by then"""
    cuts: str = ""
    """`before` the headers or in the middle of the `body`"""
    changes: Any = None
    """A function from the right text to the wrong one"""
    refusal: str | None = None
    finish_reason: str = "stop"


def error(status, message="planned failure", *, code=None, kind="server_error", **headers):
    """Return an answer with an error in OpenAI's form; `retry_after=1` becomes `retry-after`."""
    value = {"error": {"message": message, "type": kind, "code": code, "param": None}}
    return Fault(status, value, {name.replace("_", "-"): h for name, h in headers.items()})


def timeout(seconds):
    return Fault(seconds=seconds)


def text(content):
    return Fault(changes=lambda right: content)


# Of the server
WRONG_KEY = error(401, "Incorrect API key provided.", code="invalid_api_key")
FORBIDDEN = error(403, "Country, region, or territory not supported")
UNKNOWN_MODEL = error(404, "The model `x` does not exist", code="model_not_found")
BAD_REQUEST = error(400, "Invalid 'messages': a content filter was triggered")
TOO_LONG = error(
    400, "This model's maximum context length is 8 tokens", code="context_length_exceeded"
)
TOO_LARGE = error(413, "Request entity too large")
NO_QUOTA = error(
    429, "You exceeded your current quota", code="insufficient_quota", kind="insufficient_quota"
)
BROKEN, OVERLOADED = error(500), error(503, "The engine is overloaded")
HTML = Fault(502, "<html><body>Bad Gateway</body></html>", {"content-type": "text/html"})
CUT, CUT_BODY = Fault(cuts="before"), Fault(cuts="body")
WRONG_JSON = Fault(value='{"id": "x", "choices": [{"index": 0, "message"')
OTHER_JSON = Fault(value='["this is", "not a completion"]')
NO_CHOICES = Fault(value={"id": "x", "object": "chat.completion", "created": 0, "choices": []})
NULL = Fault(changes=lambda right: None)


def busy(seconds=0.01):
    """Return 429 with the seconds to wait."""
    return error(429, "Rate limit reached", code="rate_limit_exceeded", retry_after=seconds)


def busy_by_reset(span="20ms"):
    """Return 429 that says by OpenAI's x-ratelimit headers alone when to come back."""
    headers = {
        "x_ratelimit_limit_requests": 60,
        "x_ratelimit_remaining_requests": 0,
        "x_ratelimit_reset_requests": span,
    }
    return error(429, "Rate limit reached", code="rate_limit_exceeded", **headers)


# Of the model
EMPTY = text("")
REFUSED = text("I'm sorry, but I can't help with that.")
REFUSED_FIELD = Fault(changes=lambda right: None, refusal="I'm sorry, I can't assist with that.")
FILTERED = Fault(changes=lambda right: None, finish_reason="content_filter")
PROSE = text("Several of the passages seem to have it, mostly the first and the last one.")
REPEATED = text("the same again and " * 400)._replace(finish_reason="length")
REPEATED_JSON = text('{"reasons": "' + "and so on " * 400)._replace(finish_reason="length")
TRUNCATED = Fault(changes=lambda right: right[: len(right) // 2], finish_reason="length")
OTHER_LANGUAGE = text(
    json.dumps({"reasons": "видно", "label": "слова о законе и порядке"}, ensure_ascii=False)
)
ECHO = text("Your header was @AUTHORIZATION@; is that right?")
ECHO_ERROR = error(400, "bad header: @AUTHORIZATION@")
ECHO_LABEL = text('{"reasons": "@AUTHORIZATION@", "label": "the key @AUTHORIZATION@"}')


def _longer(right):
    """Return the answer with one entry more in its list."""
    try:
        value = json.loads(right)
    except ValueError:
        return right
    lists = {k: [*v, v[-1] if v else 0] for k, v in value.items() if isinstance(v, list)}
    return json.dumps({**value, **lists}) if lists else "[" + right


WRONG_LENGTH = Fault(changes=_longer)

UNREADABLE = (PROSE, TRUNCATED, WRONG_LENGTH, EMPTY, NULL, REPEATED, WRONG_JSON, NO_CHOICES)
PASSING = (busy(), busy_by_reset(), BROKEN, OVERLOADED, HTML, CUT, CUT_BODY)
"""Faults that are over when the request is made again"""


# Plans


def every(step, *faults):
    """Fail on every `step`-th request, by one fault after the other."""

    def plan(number, body):
        return faults[number // step % len(faults)] if number % step == step - 1 else None

    return plan


def always(fault, where=None):
    """Fail on every request; only those whose body `where` likes."""
    return lambda number, body: fault if where is None or where(body) else None


def by_content(share, *faults, seed=0, messages=None):
    """Fail on a share of the contents, on each of them every time, whatever the order.

    `messages` counts only the first so many messages, so that asking again fails again.
    """

    def plan(number, body):
        asked = json.dumps([seed, body.get("messages", body.get("input"))[:messages]])
        bits = int.from_bytes(hashlib.sha256(asked.encode()).digest()[:8], "little")
        return faults[bits % len(faults)] if (bits >> 16) / 2**48 < share else None

    return plan


def once(fault):
    """Fail on each content the first time it comes."""
    seen = set()

    def plan(number, body):
        asked = json.dumps(body, sort_keys=True)
        is_first = asked not in seen
        seen.add(asked)
        return fault if is_first else None

    return plan


def named_plan(name):
    """Return a plan for the command line: `none`, `passing`, `unreadable` or `mixed`."""
    plans = {
        "none": every(1 << 60, BROKEN),
        "passing": every(5, *PASSING),
        "unreadable": by_content(0.1, *UNREADABLE),
        "mixed": every(4, *PASSING, *UNREADABLE, REFUSED, ECHO),
    }
    return plans[name]
