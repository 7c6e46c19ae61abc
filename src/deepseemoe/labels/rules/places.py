"""Rules of where a token stands: in which domain, and where in its segment, line or sentence.

T tokens.
"""

from dataclasses import dataclass
from typing import ClassVar

from deepseemoe.labels.reading import BoolArray, IntArray, Reading, Vocabulary
from deepseemoe.labels.rules.rule import is_in, listed, numbers_of


@dataclass(frozen=True)
class DomainRule:
    """The document is of one of some domains."""

    kind: ClassVar[str] = "domain"
    domains: tuple[str, ...]

    def applies(self, reading: Reading) -> BoolArray:
        """Return which tokens are of the domains."""
        wanted = numbers_of(self.domains, reading.domain_names)
        return is_in(reading.domains, wanted, len(reading.domain_names))

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `domain code`."""
        return f"domain {listed(self.domains)}"


@dataclass(frozen=True)
class PositionRule:
    """The token is number `first` or a later one of its unit, counted from 0, below `before`."""

    kind: ClassVar[str] = "position"
    before: int | None
    first: int = 0
    unit: str = "segment"

    def applies(self, reading: Reading) -> BoolArray:
        """Return which tokens stand there."""
        places = places_in(reading, self.unit)
        return (places >= self.first) & (self.before is None or places < self.before)

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `first 4 tokens of a segment`, `tokens 5 to 9 of a line`."""
        if self.before is None:
            return f"token {self.first + 1} of a {self.unit} or later"
        if self.before == self.first + 1:
            name = "first token" if not self.first else f"token {self.before}"
            return f"{name} of a {self.unit}"
        if not self.first:
            return f"first {self.before} tokens of a {self.unit}"
        return f"tokens {self.first + 1} to {self.before} of a {self.unit}"


@dataclass(frozen=True)
class EveryRule:
    """The position in the segment leaves a remainder."""

    kind: ClassVar[str] = "every"
    step: int
    remainder: int

    def applies(self, reading: Reading) -> BoolArray:
        """Return every so many tokens."""
        return reading.positions % self.step == self.remainder

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `positions 1, 4, 7 … of a segment`, counted from 0."""
        shown = ", ".join(str(self.remainder + n * self.step) for n in range(3))
        return f"positions {shown} … of a segment"


def places_in(reading: Reading, unit: str) -> IntArray:
    """Return (T,): tokens of the unit before each one."""
    return reading.positions if unit == "segment" else reading.layout.places(unit)
