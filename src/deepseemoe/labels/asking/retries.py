"""What a reply means for the next step, and how long to wait before a request is sent again."""

import re
from typing import Literal, NamedTuple

from deepseemoe.labels.asking.limits import retry_after, until_reset
from deepseemoe.labels.asking.reply import Reply

FIRST, LONGEST = 0.5, 60.0
"""Seconds before the second try, and at most."""

PATIENCE = 5
"""How many times more often than after errors a request is sent again when it came too fast."""

Step = Literal["keep", "rejected", "again", "slower", "stop"]


class Verdict(NamedTuple):
    """The next step after a reply, and what to say of it."""

    step: Step
    advice: str = ""
    """With `stop`: what the user should do"""


def judge(reply: Reply, *, key_name: str) -> Verdict:
    """Return what to do after a reply.

    `keep`: it is an answer. `rejected`: this request is wrong, others may be right. `again`: it may
    pass. `slower`: too many requests. `stop`: no request will fare better.
    """
    status = _status(reply)
    if status is not None and 200 <= status < 300:
        return Verdict("keep")  # also what is no JSON: it was paid for
    if status is None or status >= 500 or status in (408, 409, 425):
        return Verdict("again")
    if status == 429:
        return Verdict("stop", "pay, or raise the limit") if _no_quota(reply) else Verdict("slower")
    if status == 403 and re.search(r"moderat|flagged|content[ _]policy", reply.said, re.I):
        return Verdict("rejected")  # OpenRouter says so of a single text
    if status in (401, 403):
        return Verdict("stop", f"check the key in {key_name}")
    if status == 402:
        return Verdict("stop", "the account is empty: pay, or name another server")
    if (
        300 <= status < 400
        or status in (404, 405)
        or (status in (400, 422) and _wrong_model(reply))
    ):
        return Verdict("stop", "check labels.model and labels.base_url")
    return Verdict("rejected")


def wait_before(reply: Reply, attempt: int, *, key: str) -> float:
    """Return the seconds until a request is sent again, the first time at attempt 0.

    As the server asks, else twice as long each time, give or take a quarter that depends on the
    request, so that many do not come back at once.
    """
    asked = retry_after(reply.headers) or until_reset(reply.headers)
    if asked is not None:
        return asked
    share = int(key[:8], 16) / 16**8
    return min(FIRST * 2.0**attempt, LONGEST) * (0.75 + share / 2)


def _status(reply: Reply) -> int | None:
    """Return the status; also that of an error which stands in an answer, as OpenRouter's."""
    if reply.status != 200 or not isinstance(reply.body, dict):
        return reply.status
    choices = reply.body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    first = first if isinstance(first, dict) else {}
    error = reply.body.get("error") or first.get("error")
    if error or first.get("finish_reason") == "error":
        code = error.get("code") if isinstance(error, dict) else None
        return code if isinstance(code, int) and code >= 400 else 502
    return 200


def _no_quota(reply: Reply) -> bool:
    found = {str(reply.error.get(name)) for name in ("code", "type")}
    return bool(found & {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


def _wrong_model(reply: Reply) -> bool:
    """Return whether a server knows no such model; some say so by 400 (`transformers serve`)."""
    if reply.error.get("code") in ("model_not_found", "invalid_model"):
        return True
    said = reply.said.lower()
    unknown = r"not found|does not exist|doesn't exist|not exist|unknown|no such|invalid model"
    other = r"|not a valid model|is not available|not served|pinned|not loaded"
    return "model" in said and re.search(unknown + other, said) is not None
