"""What a run's answers took, by purpose, and what failed: the same bill after a kill and resume."""

from collections import Counter
from typing import Any, NamedTuple

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.question import Usage


class Prices(NamedTuple):
    """US dollars for a million tokens; None where nobody said."""

    usd_per_million_in: float | None = None
    usd_per_million_out: float | None = None

    @classmethod
    def of(cls, config: LabelsConfig) -> "Prices":
        """Return the prices of a configuration."""
        return cls(config.usd_per_million_in, config.usd_per_million_out)

    def usd(self, usage: Usage) -> float | None:
        """Return what tokens cost; None without both prices."""
        if self.usd_per_million_in is None or self.usd_per_million_out is None:
            return None
        cost = usage.n_in * self.usd_per_million_in + usage.n_out * self.usd_per_million_out
        return cost / 1e6


class Bill:
    """Counts each answer once, however often and by whichever run it was asked for."""

    def __init__(self, prices: Prices | None = None):
        self.prices = prices or Prices()
        self.usage = Usage()
        self.failures: Counter[str] = Counter()
        self.n_cached = self.n_retries = 0
        """Of this process, for the log: they differ between a resumed run and a whole one"""
        self.stopped: str | None = None
        """Why questions were left out: `budget`, or None"""
        self._by_purpose: dict[str, Usage] = {}
        self._seen: set[int] = set()

    @property
    def usd(self) -> float | None:
        """What all answers cost; None without prices."""
        return self.prices.usd(self.usage)

    def answered(self, key: str, purpose: str, usage: Usage, *, cached: bool) -> None:
        """Note an answer under its content hash."""
        self.n_cached += cached
        if int(key, 16) in self._seen:
            return
        self._seen.add(int(key, 16))
        self.usage = self.usage.plus(usage)
        self._by_purpose[purpose] = self._by_purpose.get(purpose, Usage()).plus(usage)

    def failed(self, status: str) -> None:
        """Note a question without an answer of use."""
        self.failures[status] += 1

    def retried(self) -> None:
        """Note a request that is sent once more."""
        self.n_retries += 1

    def plain(self) -> dict[str, Any]:
        """Return the bill as plain data for bill.json."""
        return {
            **_counts(self.usage),
            "usd": self.usd,
            "failures": dict(sorted(self.failures.items())),
            "by_purpose": {name: _counts(one) for name, one in sorted(self._by_purpose.items())},
            "stopped": self.stopped,
        }

    def figures(self) -> dict[str, float]:
        """Return what a line of progress shows."""
        shown = {"calls": self.usage.n_calls, "tokens": self.usage.n_tokens}
        cost = {} if self.usd is None else {"USD": self.usd}
        return {**shown, **cost, "failures": self.failures.total()}

    def __str__(self) -> str:
        cost = "" if self.usd is None else f", {self.usd:.4f} USD"
        failures = ", ".join(f"{n} {status}" for status, n in sorted(self.failures.items()))
        return (
            f"{self.usage.n_calls} answers ({self.n_cached} times one from before), "
            f"{self.usage.n_in} tokens in, {self.usage.n_out} out{cost}; "
            f"{self.n_retries} requests were sent again; failures: {failures or 'none'}"
        )


def _counts(usage: Usage) -> dict[str, int]:
    return {"calls": usage.n_calls, "tokens_in": usage.n_in, "tokens_out": usage.n_out}
