"""Progress of long work as log lines: counts, rate and time left, about once a minute."""

import logging
import time
from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)


class Progress:
    """Log `done of total` with the rate, at most once every `seconds`, and once at the end."""

    def __init__(self, what: str, total: int, *, unit: str = "tokens", seconds: float = 30.0):
        self.what, self.total, self.unit, self.seconds = what, total, unit, seconds
        self.done = 0
        self._start = self._last = time.monotonic()

    def advance(self, count: int, **values: float | Callable[[], float]) -> None:
        """Add `count`; `values`, such as loss=2.31, are shown in the line.

        A function is called only for a line, so that it may cost something.
        """
        self.done += count
        now = time.monotonic()
        if now - self._last >= self.seconds or self.done >= self.total:
            self._last = now
            self._log(now, values)

    def _log(self, now: float, values: Mapping[str, float | Callable[[], float]]) -> None:
        rate = self.done / max(now - self._start, 1e-9)
        left = max(self.total - self.done, 0) / max(rate, 1e-9)
        numbers = {name: v() if callable(v) else v for name, v in values.items()}
        shown = "".join(f", {name} {number:.4g}" for name, number in numbers.items())
        line = "%s: %d of %d %s, %.0f %s/s, %.0f s left%s"
        logger.info(line, self.what, self.done, self.total, self.unit, rate, self.unit, left, shown)
