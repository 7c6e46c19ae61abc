"""What a rule can see of each token: itself, what came before in its segment, and its domain.

A model reads a segment from its start and nothing else, so nothing here looks across one or ahead.

T tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from deepseemoe.labels.layout import Layout
from deepseemoe.labels.vocabulary import NONE, BoolArray, IntArray, Vocabulary

__all__ = ["NONE", "BoolArray", "IntArray", "Reading", "Vocabulary", "bigram_key", "trigram_key"]


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
    def layout(self) -> Layout:
        """Lines, sentences, words, brackets and repetition."""
        return Layout(self.vocabulary, self.token_ids, self.segment_starts)

    @cached_property
    def types(self) -> tuple[IntArray, IntArray]:
        """The token ids that occur, and (T,) which of them each token is."""
        return np.unique(self.token_ids, return_inverse=True)

    def pairs(self, distance: int = 1) -> IntArray:
        """Return (T,): a number for each (token `distance` before, token), NONE without one."""
        before = self.before(distance, self.token_ids.astype(np.int64))
        return np.where(before == NONE, NONE, bigram_key(before, self.token_ids))

    @cached_property
    def bigrams(self) -> IntArray:
        """(T,): a number for each (previous token, token), or NONE at the start of a segment."""
        return self.pairs()

    @cached_property
    def trigrams(self) -> IntArray:
        """(T,): a number for each three tokens that end here, or NONE where there are fewer."""
        first = self.before(2, self.token_ids.astype(np.int64))
        return np.where(first == NONE, NONE, trigram_key(first, self.previous, self.token_ids))


def bigram_key(previous: IntArray | int, token: IntArray | int) -> npt.NDArray[np.int64]:
    """Return a number that names a pair of tokens."""
    return np.asarray(previous, np.int64) << 32 | np.asarray(token, np.int64)


def trigram_key(
    first: IntArray | int, second: IntArray | int, token: IntArray | int
) -> npt.NDArray[np.int64]:
    """Return a number that names three tokens, of a vocabulary below 2**21."""
    pair = np.asarray(first, np.int64) << 21 | np.asarray(second, np.int64)
    return pair << 21 | np.asarray(token, np.int64)
