"""What a rule can see of each token: itself, what came before in its segment, and its domain.

A model reads a segment from its start and nothing else, so nothing here looks across one or ahead.

T tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from deepseemoe.labels.shapes import SHAPES, shapes_of

IntArray = npt.NDArray[np.integer]
BoolArray = npt.NDArray[np.bool_]

NONE = -1
"""Stands where there is no token, word or domain."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens as text, and what follows from the text alone."""

    texts: Sequence[str]
    """(V,) text of each token id"""

    @cached_property
    def shapes(self) -> BoolArray:
        """(V, number of SHAPES): which shapes each token has."""
        return np.array([shapes_of(text) for text in self.texts]).reshape(-1, len(SHAPES))

    @cached_property
    def words(self) -> tuple[list[str], IntArray]:
        """The distinct words, and (V,) the word of each token: its text without spaces and case.

        A trigger is a word: “import”, “ import” and “Import” announce the same. Blank tokens are
        none.
        """
        stripped = [text.strip().casefold() for text in self.texts]
        words = sorted({word for word in stripped if word})
        index = {word: n for n, word in enumerate(words)}
        return words, np.array([index.get(word, NONE) for word in stripped])


@dataclass(frozen=True)
class Reading:
    """T tokens of whole documents, in text order."""

    vocabulary: Vocabulary
    domain_names: Sequence[str]
    token_ids: IntArray
    doc_ids: IntArray
    positions: IntArray
    is_valid: BoolArray
    domains: IntArray
    """(T,) index into `domain_names`, or NONE"""

    def only(self, chosen: BoolArray) -> "Reading":
        """Return the chosen tokens, which must be whole documents."""
        arrays = (self.token_ids, self.doc_ids, self.positions, self.is_valid, self.domains)
        return Reading(self.vocabulary, self.domain_names, *(array[chosen] for array in arrays))

    @cached_property
    def segment_starts(self) -> IntArray:
        """(T,): the first token of each token's segment."""
        opens = self.positions == 0
        opens[:1] = True
        opens[1:] |= self.doc_ids[1:] != self.doc_ids[:-1]
        return np.maximum.accumulate(np.where(opens, np.arange(len(opens)), 0))

    @cached_property
    def previous(self) -> IntArray:
        """(T,): token before each one, or NONE at the start of a segment."""
        return self.before(1, self.token_ids.astype(np.int64))

    def before(self, distance: int, values: IntArray) -> IntArray:
        """Return (T,): `values` of the token `distance` places before, NONE outside the segment."""
        shifted = np.full(len(values), NONE, np.int64)
        shifted[distance:] = values[:-distance] if distance else values
        is_inside = np.arange(len(values)) - distance >= self.segment_starts
        return np.where(is_inside, shifted, NONE)

    @cached_property
    def words(self) -> IntArray:
        """(T,): the word of each token, or NONE."""
        return self.vocabulary.words[1][self.token_ids]

    @cached_property
    def places_of_word(self) -> tuple[IntArray, IntArray]:
        """Places sorted by word, and (words + 1,) where each word's places start."""
        order = np.argsort(self.words, kind="stable")
        n_words = len(self.vocabulary.words[0])
        starts = np.searchsorted(self.words[order], np.arange(n_words + 1))
        return order, starts

    @cached_property
    def bigrams(self) -> IntArray:
        """(T,): a number for each (previous token, token), or NONE at the start of a segment."""
        keys = bigram_key(self.previous, self.token_ids)
        return np.where(self.previous == NONE, NONE, keys)


def bigram_key(previous: IntArray | int, token: IntArray | int) -> npt.NDArray[np.int64]:
    """Return a number that names a pair of tokens."""
    return np.asarray(previous, np.int64) << 32 | np.asarray(token, np.int64)
