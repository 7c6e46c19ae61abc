"""Rules that a word sets off: for so many tokens, or until the end of its line or sentence.

T tokens.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deepseemoe.labels.reading import BoolArray, IntArray, Reading, Vocabulary
from deepseemoe.labels.rules.rule import quoted


@dataclass(frozen=True)
class AfterRule:
    """A word stands among the `within` tokens before, in the same segment."""

    kind: ClassVar[str] = "after"
    word: str
    within: int

    def applies(self, reading: Reading) -> BoolArray:
        """Return which tokens follow the word closely enough."""
        n_tokens = len(reading.token_ids)
        targets = _places(reading, self.word)[:, None] + np.arange(1, self.within + 1)
        origins = np.broadcast_to(targets[:, :1] - 1, targets.shape)
        is_inside = targets < n_tokens
        targets, origins = targets[is_inside], origins[is_inside]
        mask = np.zeros(n_tokens, bool)
        mask[targets[reading.segment_starts[targets] <= origins]] = True
        return mask

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `after “import” (within 3 tokens)`."""
        return f"after {quoted([self.word])} (within {self.within} tokens)"


@dataclass(frozen=True)
class SinceRule:
    """A word stands before the token in the same line, sentence or segment."""

    kind: ClassVar[str] = "since"
    word: str
    unit: str

    def applies(self, reading: Reading) -> BoolArray:
        """Return which tokens of the unit follow the word."""
        n_tokens = len(reading.token_ids)
        last = np.full(n_tokens + 1, -1)
        places = _places(reading, self.word)
        last[places + 1] = places  # in force from the next token on
        return np.maximum.accumulate(last[:-1]) >= reading.layout.starts(self.unit)

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `from “#” until the end of the line`."""
        return f"from {quoted([self.word])} until the end of the {self.unit}"


def _places(reading: Reading, word: str) -> IntArray:
    """Return where a word stands."""
    words = reading.vocabulary.words[0]
    index = bisect_left(words, word)
    if index == len(words) or words[index] != word:
        return np.zeros(0, np.int64)
    order, starts = reading.places_of_word
    return np.sort(order[starts[index] : starts[index + 1]])
