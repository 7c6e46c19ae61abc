"""How a text is laid out, seen from its start: lines, sentences, words, brackets, repetition.

Everything is read from left to right within a segment, so that a token's place follows from what
stands before it.

T tokens, M pairs of delimiters.
"""

from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np

from deepseemoe.labels.vocabulary import NONE, BoolArray, IntArray, Vocabulary, plain

UNITS = ("segment", "line", "sentence", "word")
"""What a place can be counted in."""

DELIMITERS: dict[str, tuple[str, str]] = {
    "round brackets": ("(", ")"),
    "square brackets": ("[", "]"),
    "curly brackets": ("{", "}"),
    "angle brackets": ("<", ">"),
    "double quotes": ('"', '"'),
    "curved quotes": ("“", "”"),
    "single quotes": ("'", "'"),
    "backticks": ("`", "`"),
    "dollar signs": ("$", "$"),
    "fenced code": ("```", "```"),
}

_APOSTROPHES = ("'s", "'t", "'re", "'ve", "'ll", "'d", "'m")

REPEATS = ("token", "word", "pair", "double")
"""What may have stood before: the token or word in the segment, the pair, the token just before."""


@dataclass(frozen=True)
class Layout:
    """The layout of T tokens whose segments begin at `segment_starts`."""

    vocabulary: Vocabulary
    token_ids: IntArray
    segment_starts: IntArray

    def starts(self, unit: str) -> IntArray:
        """Return (T,): the first token of each token's segment, line, sentence or word."""
        return {
            "segment": self.segment_starts,
            "line": self._lines,
            "sentence": self._sentences,
            "word": self._word_starts,
        }[unit]

    def places(self, unit: str) -> IntArray:
        """Return (T,): tokens of the unit before each one."""
        return np.arange(len(self.token_ids)) - self.starts(unit)

    @cached_property
    def _lines(self) -> IntArray:
        return self._starts_after(self.vocabulary.breaks_line[self.token_ids])

    @cached_property
    def _sentences(self) -> IntArray:
        return self._starts_after(self.vocabulary.ends_sentence[self.token_ids])

    @cached_property
    def _word_starts(self) -> IntArray:
        """Only a token that goes on with a letter or digit what ended in one is no start."""
        is_open = self.vocabulary.stays_open[self.token_ids]
        return self._starts_after(~(is_open & np.append(self._goes_on[1:], False)))

    @property
    def _goes_on(self) -> BoolArray:
        return self.vocabulary.goes_on[self.token_ids]

    def _starts_after(self, is_last: BoolArray) -> IntArray:
        """Return (T,) starts of units that end with tokens of `is_last`, or with the segment."""
        places = np.arange(len(self.token_ids))
        opens = self.segment_starts == places
        opens[1:] |= is_last[:-1]
        return np.maximum.accumulate(np.where(opens, places, 0))

    @cached_property
    def words_so_far(self) -> tuple[list[str], IntArray]:
        """Distinct texts of words up to a token, without case, and (T,) which each token has.

        A word may be made of several tokens; blank tokens are none.
        """
        names, of_token = self.vocabulary.words
        found, index, longer = list(names), {}, {}
        numbers = of_token[self.token_ids].astype(np.int64)
        texts = self.vocabulary.texts
        for place in np.flatnonzero(self.places("word")).tolist():
            pair = int(numbers[place - 1]), int(self.token_ids[place])
            if pair not in longer:
                text = found[pair[0]] + plain(texts[pair[1]])
                if text not in index:
                    index[text] = len(found)
                    found.append(text)
                longer[pair] = index[text]
            numbers[place] = longer[pair]
        return _distinct(found, numbers)

    @cached_property
    def line_words(self) -> IntArray:
        """(T,): the first word of each token's line, from that word on; else NONE."""
        words = self.vocabulary.words[1][self.token_ids].astype(np.int64)
        places, starts = np.arange(len(words)), self._lines
        filled = np.where(words != NONE, places, len(words))
        first = np.full(len(words), len(words))
        np.minimum.at(first, starts, filled)
        first = first[starts]
        return np.where(first <= places, words[np.minimum(first, len(words) - 1)], NONE)

    def inside(self, delimiters: str, edges: str) -> BoolArray:
        """Return (T,): which tokens stand inside; `edges` says whether the delimiters count.

        `inner`: neither; `outer`: both; `opening`, `closing`: only that one.
        """
        before, after = self._depths[delimiters]
        return {
            "inner": (before > 0) & (after > 0),
            "outer": (before > 0) | (after > 0),
            "opening": after > 0,
            "closing": before > 0,
        }[edges]

    @cached_property
    def _depths(self) -> dict[str, tuple[IntArray, IntArray]]:
        return {name: self._depth(*pair) for name, pair in DELIMITERS.items()}

    def _depth(self, opening: str, closing: str) -> tuple[IntArray, IntArray]:
        texts = self.vocabulary.texts
        opens = np.fromiter((_count(text, opening) for text in texts), np.int64, len(texts))
        closes = np.fromiter((_count(text, closing) for text in texts), np.int64, len(texts))
        begins = self.segment_starts == np.arange(len(self.token_ids))
        if opening == closing:
            return _parities(opens[self.token_ids], begins)
        return _depths(opens[self.token_ids], closes[self.token_ids], begins)

    def repeated(self, what: str) -> BoolArray:
        """Return (T,): whether the token, word or pair of tokens has stood in the segment."""
        return self._repeated[what]

    @cached_property
    def _repeated(self) -> dict[str, BoolArray]:
        return {what: self._repeats(what) for what in REPEATS}

    def _repeats(self, what: str) -> BoolArray:
        tokens = self.token_ids.astype(np.int64)
        previous = np.concatenate([[NONE], tokens[:-1]])
        is_first = self.segment_starts == np.arange(len(tokens))
        if what == "double":
            return (tokens == previous) & ~is_first
        if what == "pair":
            return _seen(previous << 32 | tokens, self.segment_starts) & ~is_first
        if what == "word":
            words = self.vocabulary.words[1][tokens]
            return _seen(words, self.segment_starts) & (words != NONE)
        return _seen(tokens, self.segment_starts)


def _distinct(names: list[str], numbers: IntArray) -> tuple[list[str], IntArray]:
    """Return the texts that occur, each once and sorted, and the numbers that they have then."""
    used = np.unique(numbers[numbers != NONE])
    texts = sorted({names[number] for number in used.tolist()})
    place = {text: n for n, text in enumerate(texts)}
    table = np.full(len(names) + 1, NONE)
    table[used] = [place[names[number]] for number in used.tolist()]
    return texts, table[numbers]


def _count(text: str, delimiter: str) -> int:
    """Return how often a delimiter stands in a text; that of “don't” is none."""
    return 0 if text.casefold() in _APOSTROPHES else text.count(delimiter)


def _seen(symbols: IntArray, segment_starts: IntArray) -> BoolArray:
    """Return (T,): whether the symbol has stood before in the segment."""
    order = np.lexsort((np.arange(len(symbols)), symbols, segment_starts))
    same = np.zeros(len(symbols), bool)
    same[1:] = (symbols[order][1:] == symbols[order][:-1]) & (
        segment_starts[order][1:] == segment_starts[order][:-1]
    )
    seen = np.zeros(len(symbols), bool)
    seen[order] = same
    return seen


@numba.njit(cache=True, nogil=True)
def _depths(opens: IntArray, closes: IntArray, begins: BoolArray) -> tuple[IntArray, IntArray]:
    """Return (T,) depth before and after each token; closing what is not open does nothing."""
    before, after = np.zeros(len(opens), np.int32), np.zeros(len(opens), np.int32)
    depth = 0
    for t in range(len(opens)):
        if begins[t]:
            depth = 0
        before[t] = depth
        depth = max(depth + opens[t] - closes[t], 0)
        after[t] = depth
    return before, after


@numba.njit(cache=True, nogil=True)
def _parities(marks: IntArray, begins: BoolArray) -> tuple[IntArray, IntArray]:
    """Return (T,) 1 where a pair of equal delimiters is open before and after each token."""
    before, after = np.zeros(len(marks), np.int32), np.zeros(len(marks), np.int32)
    depth = 0
    for t in range(len(marks)):
        if begins[t]:
            depth = 0
        before[t] = depth
        depth = (depth + marks[t]) % 2
        after[t] = depth
    return before, after
