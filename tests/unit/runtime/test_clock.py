"""A clock that is set while a run works, or is wrong, changes no result and stops none."""

import logging
import os
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from deepseemoe.labels.asking.limits import retry_after, until_reset
from deepseemoe.runtime.files import growing
from deepseemoe.runtime.progress import Progress

YEARS = 3 * 365 * 86400


@pytest.fixture(params=[-YEARS, -60, YEARS], ids=["years back", "back", "years on"])
def jump(request, monkeypatch):
    """Set the clock of the day; the one that only runs on is not touched."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + request.param)


def test_progress_is_measured_by_the_clock_that_only_runs_on(jump, caplog):
    caplog.set_level(logging.INFO)
    progress = Progress("work", 10, seconds=0.0)
    progress.advance(5)
    progress.advance(5)
    assert "-" not in caplog.records[-1].getMessage().partition(": ")[2]


def test_a_wait_that_a_server_asks_for_is_by_its_own_clock(jump):
    there = datetime.now(UTC) + timedelta(days=4000)
    headers = {"date": format_datetime(there, usegmt=True)}
    asked = format_datetime(there + timedelta(seconds=20), usegmt=True)
    assert retry_after({**headers, "retry-after": asked}) == pytest.approx(20, abs=1)
    until = str(int(there.timestamp() * 1000) + 20_000)
    limits = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": until}
    assert until_reset({**headers, **limits}) == pytest.approx(20, abs=1)


def test_a_file_of_the_future_or_the_past_is_replaced(tmp_path):
    for times in ((0, 0), (2**32, 2**32)):
        path = tmp_path / "table"
        path.write_text("old")
        os.utime(path, times)
        (tmp_path / "table.partial").write_text("older")
        os.utime(tmp_path / "table.partial", times)
        with growing(path) as partial:
            partial.write_text("new")
        assert path.read_text() == "new"
