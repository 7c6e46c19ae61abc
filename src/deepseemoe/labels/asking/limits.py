"""How fast requests may go: as the server's headers say, and no faster than the configuration.

One pace for all requests. Known are Retry-After and retry-after-ms, OpenAI's
`x-ratelimit-{limit,remaining,reset}-{requests,tokens}` (which vLLM gateways and others copy),
OpenRouter's `x-ratelimit-*` (reset in epoch milliseconds), and the IETF's `ratelimit-*`. Where a
window is used up, everything waits until its reset: OpenAI refills bit by bit, others all at once,
and the later of the two is right for both.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.question import Stopped

LONGEST = 900.0
"""Seconds to wait for a server; where it asks for more, as for a limit of a day, the run stops."""

MINUTE = 60.0

UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}

KINDS = {"requests": ("-requests", ""), "tokens": ("-tokens",)}


class Limits:
    """Lets requests go one by one; shared by all of them."""

    def __init__(
        self,
        config: LabelsConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ):
        self._most = config.requests_per_minute, config.tokens_per_minute
        self._clock, self._sleep = clock, sleep
        self._sent: deque[list[float]] = deque()  # [when, tokens] of the last minute
        self._under_way: list[list[float]] = []
        self._paused_until = 0.0
        self._left: dict[str, tuple[float, float]] = {}  # by kind: how much, and until when

    async def begin(self, n_tokens: int) -> list[float]:
        """Wait until a request of about so many tokens may go; return it for `end`.

        Raises Stopped where that takes longer than `LONGEST`.
        """
        while (delay := self._delay(n_tokens)) > 0:
            if delay > LONGEST:
                raise Stopped(
                    f"the server's limit is used up for {delay:.0f} s; start the run again then"
                )
            await self._sleep(delay)
        request = [self._clock(), float(n_tokens)]
        if any(self._most):
            self._sent.append(request)
        self._under_way.append(request)
        for kind, needed in (("requests", 1), ("tokens", n_tokens)):
            if kind in self._left:
                left, until = self._left[kind]
                self._left[kind] = left - needed, until
        return request

    def end(self, request: list[float], headers: Mapping[str, str], n_tokens: int | None) -> None:
        """Note what came back: the server's headers, and how many tokens it took if known."""
        self._under_way = [other for other in self._under_way if other is not request]
        if n_tokens is not None:
            request[1] = float(n_tokens)
        others = {
            "requests": float(len(self._under_way)),
            "tokens": sum(tokens for _, tokens in self._under_way),
        }
        for kind, suffixes in KINDS.items():
            found = next(filter(None, (_allowance(headers, suffix) for suffix in suffixes)), None)
            if found:
                left, seconds = found
                self._left[kind] = left - others[kind], self._clock() + seconds

    def pause(self, seconds: float) -> None:
        """Let no request go for so long."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _delay(self, n_tokens: int) -> float:
        now = self._clock()
        until = [self._paused_until, self._own_turn(now, n_tokens)]
        for kind, needed in (("requests", 1), ("tokens", n_tokens)):
            left, reset = self._left.get(kind, (needed, 0.0))
            if reset <= now:
                self._left.pop(kind, None)
            elif left < needed:
                until.append(reset)
        return max(until) - now

    def _own_turn(self, now: float, n_tokens: int) -> float:
        """Return when the configuration's limits admit a request."""
        while self._sent and self._sent[0][0] <= now - MINUTE:
            self._sent.popleft()
        most_requests, most_tokens = self._most
        turn = now
        if most_requests and len(self._sent) >= most_requests:
            turn = self._sent[-most_requests][0] + MINUTE
        if most_tokens:
            total = n_tokens + sum(tokens for _, tokens in self._sent)
            for when, tokens in self._sent:
                if total <= most_tokens:
                    break
                turn, total = max(turn, when + MINUTE), total - tokens
        return turn


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait; None where it says nothing."""
    try:
        return max(float(headers["retry-after-ms"]) / 1000, 0.0)
    except (KeyError, ValueError):
        said = headers.get("retry-after", "")
    now = _now(headers)
    seconds = duration(said, now=now)
    if seconds is not None or not said:
        return seconds
    when = _date(said)
    return None if when is None else max(when - now, 0.0)


def _now(headers: Mapping[str, str]) -> float:
    """Return the server's time since the epoch, or ours where it does not say: one may be wrong."""
    said = _date(headers.get("date", ""))
    return time.time() if said is None else said


def _date(text: str) -> float | None:
    """Return the time since the epoch of a date as HTTP writes it; None where it is none."""
    try:
        when = parsedate_to_datetime(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (OverflowError, ValueError):
        return None


def until_reset(headers: Mapping[str, str]) -> float | None:
    """Return the seconds until a window that is used up opens again; None where none is."""
    found = [_allowance(headers, suffix) for suffixes in KINDS.values() for suffix in suffixes]
    return max((one[1] for one in found if one and one[0] < 1), default=None)


def duration(text: str, *, now: float | None = None) -> float | None:
    """Return the seconds of `1.5`, `12ms`, `6m0s`, or until a time since the epoch; None for else.

    A number above 1e9 is a time in seconds, above 1e11 one in milliseconds; `now` is that of who
    says so, by default ours.
    """
    text = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        number = float(text)
        if number < 1e9:
            return number
        at = time.time() if now is None else now
        return max(number / (1000 if number > 1e11 else 1) - at, 0.0)
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|us|[dhms]))+", text):
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|us|[dhms])", text)
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def _allowance(headers: Mapping[str, str], suffix: str) -> tuple[float, float] | None:
    """Return how much is left and for how many seconds; None where the server does not say.

    Azure says -1 and 0 where it knows nothing.
    """
    for family in ("x-ratelimit", "ratelimit"):
        left = headers.get(f"{family}-remaining{suffix}", "").strip()
        seconds = duration(headers.get(f"{family}-reset{suffix}", ""), now=_now(headers))
        if re.fullmatch(r"\d+(\.\d+)?", left) and seconds:
            return float(left), seconds
    return None
