"""The pace of requests follows the server's headers and the configuration; time is simulated."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.limits import Limits, duration, retry_after
from deepseemoe.labels.asking.question import Stopped


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds
        await asyncio.sleep(0)


def make(**changes):
    clock = Clock()
    return Limits(LabelsConfig(**changes), clock=clock, sleep=clock.sleep), clock


def starts(limits, clock, n, *, tokens=10, headers=None, taken=None):
    """Return when each of n requests, one after the other, may go; from 0."""

    async def run():
        times = []
        for _ in range(n):
            request = await limits.begin(tokens)
            times.append(clock.now - 1000)
            limits.end(request, headers or {}, taken)
        return times

    return asyncio.run(run())


def test_without_limits_nothing_waits():
    assert starts(*make(), 50) == [0.0] * 50


def test_no_more_requests_a_minute_than_configured_in_any_minute():
    times = starts(*make(requests_per_minute=3), 10)
    assert all(late - early >= 60 for early, late in zip(times, times[3:], strict=False))
    assert times[-1] == 180, "and no longer than needed"


def test_no_more_tokens_a_minute_than_configured_by_what_answers_took():
    times = starts(*make(tokens_per_minute=100), 12, tokens=50, taken=25)
    for first in times:
        assert sum(25 for other in times if first <= other < first + 60) <= 100
    alone = starts(*make(tokens_per_minute=100), 2, tokens=500)
    assert alone == [0, 60], "a request above the limit goes alone"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "7s"},
        {"x-ratelimit-remaining-tokens": "3", "x-ratelimit-reset-tokens": "7000ms"},
        {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "7"},
        {"ratelimit-remaining": "0", "ratelimit-reset": "7"},
    ],
)
def test_a_window_that_is_used_up_holds_all_until_its_reset(headers):
    assert starts(*make(), 3, headers=headers) == [0, 7, 14]


def test_a_reset_in_epoch_milliseconds_is_understood():
    soon = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(1000 * time.time() + 9000))}
    assert starts(*make(), 2, headers=soon)[1] == pytest.approx(9, abs=1)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-remaining-tokens": "-1", "x-ratelimit-reset-tokens": "0"},
        {"x-ratelimit-remaining-requests": "0"},
        {"x-ratelimit-remaining-requests": "5000", "x-ratelimit-reset-requests": "60s"},
        {"x-ratelimit-remaining-requests": "none", "x-ratelimit-reset-requests": "soon"},
    ],
)
def test_headers_that_say_nothing_hold_nobody_up(headers):
    assert starts(*make(), 3, headers=headers) == [0, 0, 0]


def test_requests_under_way_count_against_what_is_left():
    limits, clock = make()

    async def run():
        first, second, third = [await limits.begin(1) for _ in range(3)]
        left = {"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "9s"}
        limits.end(first, left, 1)  # of 3 that are left, 2 are under way already
        await limits.begin(1)
        assert clock.now == 1000
        await limits.begin(1)
        assert clock.now == 1009

    asyncio.run(run())


def test_a_pause_holds_all_requests():
    limits, clock = make()
    limits.pause(4)
    limits.pause(2)
    assert starts(limits, clock, 2) == [4, 4]


def test_a_limit_of_a_day_stops_the_run():
    limits, clock = make()
    limits.pause(20_000)
    with pytest.raises(Stopped, match="20000 s"):
        starts(limits, clock, 1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12ms", 0.012), ("6m0s", 360), ("1h2m3.5s", 3723.5), ("2", 2), ("0.5", 0.5), ("1d", 86400)],
)
def test_durations_are_read_as_servers_write_them(text, seconds):
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "-1", "1x", "ms"])
def test_what_is_no_duration_is_none(text):
    assert duration(text) is None


def test_retry_after_comes_in_three_forms():
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry_after({"retry-after": "3"}) == 3
    assert retry_after({"retry-after": "3", "retry-after-ms": "20"}) == 0.02
    assert retry_after({"retry-after": later}) == pytest.approx(30, abs=2)
    assert retry_after({"retry-after": "Fri, 01 Jan 2021 00:00:00 GMT"}) == 0
    assert retry_after({"retry-after": "whenever"}) is None
    assert retry_after({}) is None
