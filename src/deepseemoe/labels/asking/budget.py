"""What a run may spend, in money and in tokens."""

from typing import Literal, NamedTuple

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.bill import Prices
from deepseemoe.labels.asking.question import Usage

SHARES = {"features": 0.8, "experts": 0.2}


class Budget(NamedTuple):
    """The most that may be spent; None is no limit."""

    usd: float | None = None
    tokens: int | None = None
    prices: Prices = Prices()

    def admits(self, usage: Usage) -> bool:
        """Return whether so much may be spent in all.

        Raises ValueError where there is a limit in money but no price to count by.
        """
        if self.tokens is not None and usage.n_tokens > self.tokens:
            return False
        if self.usd is None:
            return True
        cost = self.prices.usd(usage)
        if cost is None:
            raise ValueError("a budget in USD needs the prices of tokens in and out")
        return cost <= self.usd

    @classmethod
    def share_of(
        cls, config: LabelsConfig, parts: int, what: Literal["features", "experts"] = "features"
    ) -> "Budget":
        """Return the share of one of `parts` dictionary windows, a fifth of it for experts."""
        share = SHARES[what] / parts
        return cls(
            usd=None if config.budget_usd is None else config.budget_usd * share,
            tokens=None if config.budget_tokens is None else int(config.budget_tokens * share),
            prices=Prices.of(config),
        )

    def part(self, share: float) -> "Budget":
        """Return a share of it."""
        return self._replace(
            usd=None if self.usd is None else self.usd * share,
            tokens=None if self.tokens is None else int(self.tokens * share),
        )


UNLIMITED = Budget()
