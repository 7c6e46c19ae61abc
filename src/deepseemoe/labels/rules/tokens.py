"""Rules of which tokens stand where: sets of tokens, pairs, threes and words.

T tokens.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from deepseemoe.labels.reading import (
    BoolArray,
    Reading,
    Vocabulary,
    bigram_key,
    trigram_key,
)
from deepseemoe.labels.rules.rule import is_in, numbers_of, quoted


@dataclass(frozen=True)
class TokenRule:
    """The current token is one of a set, the most frequent first."""

    kind: ClassVar[str] = "token"
    tokens: tuple[int, ...]

    def applies(self, reading: Reading) -> BoolArray:
        """Return where the token is in the set."""
        return is_in(reading.token_ids, self.tokens, len(reading.vocabulary.texts))

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `token “def”, “class” and 3 more`."""
        return f"token {quoted([vocabulary.texts[token] for token in self.tokens])}"


@dataclass(frozen=True)
class PreviousRule:
    """The token so many places before, in the same segment, is one of a set."""

    kind: ClassVar[str] = "previous"
    tokens: tuple[int, ...]
    distance: int = 1

    def applies(self, reading: Reading) -> BoolArray:
        """Return where the token before is in the set."""
        before = reading.before(self.distance, reading.token_ids.astype(np.int64))
        return is_in(before, self.tokens, len(reading.vocabulary.texts))

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `right after “of”` or `2 tokens after “of”`."""
        where = "right" if self.distance == 1 else f"{self.distance} tokens"
        return f"{where} after {quoted([vocabulary.texts[token] for token in self.tokens])}"


@dataclass(frozen=True)
class BigramRule:
    """The token so many places before and the current one are one of a set of pairs."""

    kind: ClassVar[str] = "bigram"
    pairs: tuple[tuple[int, int], ...]
    distance: int = 1

    def applies(self, reading: Reading) -> BoolArray:
        """Return where the pair that ends at a token is in the set."""
        before, token = np.array(self.pairs).T
        return np.isin(reading.pairs(self.distance), bigram_key(before, token))

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `end of “New York”`, or `end of “from … to”` for a pair with a gap."""
        texts, gap = vocabulary.texts, " … " if self.distance > 1 else ""
        shown = [
            texts[before].rstrip() + gap + texts[token].lstrip()
            if gap
            else texts[before] + texts[token]
            for before, token in self.pairs
        ]
        return f"end of {quoted(shown)}"


@dataclass(frozen=True)
class TrigramRule:
    """The last three tokens are one of a set of threes."""

    kind: ClassVar[str] = "trigram"
    threes: tuple[tuple[int, int, int], ...]

    def applies(self, reading: Reading) -> BoolArray:
        """Return where the three tokens that end at a token are in the set."""
        first, second, token = np.array(self.threes).T
        return np.isin(reading.trigrams, trigram_key(first, second, token))

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `end of “as well as”`."""
        texts = vocabulary.texts
        shown = ["".join(texts[token] for token in three) for three in self.threes]
        return f"end of {quoted(shown)}"


@dataclass(frozen=True)
class WordRule:
    """The word so far, which may be made of several tokens, is one of a set, whatever its case."""

    kind: ClassVar[str] = "word"
    words: tuple[str, ...]

    def applies(self, reading: Reading) -> BoolArray:
        """Return where a word up to the token is in the set."""
        names, numbers = reading.layout.words_so_far
        return is_in(numbers, numbers_of(self.words, names), len(names))

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `word “photosynthesis”`."""
        return f"word {quoted(self.words)}"
