"""Progress of asking with its cost: lines in the log, and a bar where a person looks on."""

import sys
import time
from typing import TextIO

from deepseemoe.labels.asking.bill import Bill
from deepseemoe.runtime.progress import Progress

BAR_SECONDS = 0.5
WIDTH = 24


class CostProgress:
    """Items done, calls, tokens, US dollars and failures so far, and the time left."""

    def __init__(
        self,
        what: str,
        total: int,
        *,
        bill: Bill,
        unit: str = "features",
        terminal: TextIO | None = None,
    ):
        self._lines = Progress(what, total, unit=unit)
        self._bill, self._terminal = bill, terminal or sys.stderr
        self._start = time.monotonic()
        self._shown = self._start - BAR_SECONDS if self._terminal.isatty() else float("inf")

    def advance(self, count: int = 1) -> None:
        """Note that so many more items are done."""
        self._lines.advance(count, **self._bill.figures())
        now = time.monotonic()
        is_last = self._lines.done >= self._lines.total
        if now - self._shown >= BAR_SECONDS or (is_last and self._terminal.isatty()):
            self._shown = now
            self._terminal.write(f"\r{self._bar(now - self._start)}\x1b[K" + "\n" * is_last)
            self._terminal.flush()

    def _bar(self, seconds: float) -> str:
        done, total = self._lines.done, max(self._lines.total, 1)
        full = WIDTH * done // total
        left = seconds * (total - done) / max(done, 1)
        figures = ", ".join(f"{number:.6g} {name}" for name, number in self._bill.figures().items())
        bar = "█" * full + "·" * (WIDTH - full)
        return f"{bar} {done}/{total} {self._lines.unit}, {left:.0f} s left, {figures}"
