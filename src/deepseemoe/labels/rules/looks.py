"""Rules of how a token looks, or the one before it: its shape, its ends, its length.

T tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from deepseemoe.labels.reading import NONE, BoolArray, IntArray, Reading, Vocabulary
from deepseemoe.labels.rules.rule import is_in, quoted
from deepseemoe.labels.shapes import SHAPES

How = Literal["begins", "ends", "contains"]

MATCHES: dict[str, Callable[[str, str], bool]] = {
    "begins": str.startswith,
    "ends": str.endswith,
    "contains": str.__contains__,
}


@dataclass(frozen=True)
class ShapeRule:
    """The text of the token, or of the one so many places before, has a shape."""

    kind: ClassVar[str] = "shape"
    shape: str
    distance: int = 0

    def applies(self, reading: Reading) -> BoolArray:
        """Return where the token has the shape."""
        has_shape = reading.vocabulary.shapes[:, list(SHAPES).index(self.shape)]
        return has_shape[tokens_at(reading, self.distance)] & is_there(reading, self.distance)

    def label(self, vocabulary: Vocabulary) -> str:
        """Return the name of the shape, such as `digits`, or `right after digits`."""
        return _at(self.shape, self.distance)


@dataclass(frozen=True)
class AffixRule:
    """The text of the token begins with some letters, ends with them or has them, in any case."""

    kind: ClassVar[str] = "affix"
    how: How
    text: str
    distance: int = 0

    def applies(self, reading: Reading) -> BoolArray:
        """Return where the token looks so; only tokens that occur are looked at."""
        ids, numbers = reading.types
        texts, matches = reading.vocabulary.plain, MATCHES[self.how]
        found = [n for n, t in enumerate(ids.tolist()) if matches(texts[t], self.text)]
        return is_in(reading.before(self.distance, numbers), found, len(ids))

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `token that ends with “ing”`."""
        joint = "" if self.how == "contains" else " with"
        return _at(f"token that {self.how}{joint} {quoted([self.text])}", self.distance)


@dataclass(frozen=True)
class LengthRule:
    """The token, without spaces around it, has `first` characters or more, up to `last`."""

    kind: ClassVar[str] = "length"
    first: int
    last: int | None = None

    def applies(self, reading: Reading) -> BoolArray:
        """Return which tokens are as long."""
        lengths = reading.vocabulary.lengths[reading.token_ids]
        return (lengths >= self.first) & (self.last is None or lengths <= self.last)

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `token of 8 characters or more`, `token of 2 to 4 characters`."""
        if self.last is None:
            return f"token of {self.first} characters or more"
        span = str(self.first) if self.first == self.last else f"{self.first} to {self.last}"
        return f"token of {span} character" + ("" if span == "1" else "s")


def tokens_at(reading: Reading, distance: int) -> IntArray:
    """Return (T,): the token so many places before, whatever stands there in other segments."""
    return np.roll(reading.token_ids, distance)


def is_there(reading: Reading, distance: int) -> BoolArray:
    """Return (T,): whether the token so many places before is in the segment."""
    return reading.before(distance, np.zeros(len(reading.token_ids), np.int64)) != NONE


def _at(look: str, distance: int) -> str:
    if not distance:
        return look
    return f"right after {look}" if distance == 1 else f"{distance} tokens after {look}"
