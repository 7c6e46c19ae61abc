"""Fit triggers: the word after which a feature fires, for so many tokens or until a unit ends.

`after`: for each token, the nearest place of each word among the tokens before is counted once, by
its distance; summed over distances up to n that is how many activations the rule covers. `since`:
a unit's words are listed by their first place, and merged with the activations in the unit.

T tokens, F features, W candidate words, N distances, U units, P first places of words in units.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numba
import numpy as np

from deepseemoe.labels.counts import merit
from deepseemoe.labels.fit.task import COST, PER_BIT, Fitted, Floats, Task, everywhere
from deepseemoe.labels.reading import NONE, IntArray, Reading
from deepseemoe.labels.rules import AfterRule, Rule, SinceRule

WITHIN = np.array([2, 3, 4, 5, 6, 8, 10, 12, 16])
"""Distances that are tried; directly after a token is a rule of its own."""

SINCE = ("line", "sentence", "segment")
"""Units until whose end a trigger may hold."""

MAX_WORDS = 8192
"""Candidate words, the most frequent: rarer ones have too few activations behind them."""

MIN_DOCUMENTS = 3
"""Explaining documents that a trigger must occur in."""

MIN_UNITS = 3
"""Units in which a trigger is seen with the feature."""


@dataclass(frozen=True)
class After:
    """A family: which word stands within how many tokens before; see `candidates` for both."""

    reading: Reading
    words: IntArray
    numbers: IntArray

    @cached_property
    def _sizes(self) -> tuple[Any, ...]:
        return self.reading.segment_starts, self.numbers, len(self.words), WITHIN

    @cached_property
    def _covered(self) -> IntArray:
        """(N, W): valid tokens that each word and distance cover."""
        return _nearby(everywhere(self.reading).places, *self._sizes)

    def fit(self, task: Task) -> list[Fitted]:
        """Return the best word and distance of each feature."""
        bits = PER_BIT * float(np.log2(len(self.words) * len(WITHIN) + 1))
        merits, best = _best_after(
            *task.arrays, *self._sizes, self._covered, bits, task.base is not None
        )
        names = self.reading.vocabulary.words[0]

        def rule(f: int) -> Rule:
            return AfterRule(names[self.words[best[f, 0]]], int(WITHIN[best[f, 1]]))

        return [Fitted("after", merits - COST["after"], rule)]


@dataclass(frozen=True)
class Since:
    """A family: after which word, until the end of a unit."""

    reading: Reading
    words: IntArray
    numbers: IntArray
    unit: str

    @cached_property
    def _lists(self) -> tuple[Any, ...]:
        starts = self.reading.layout.starts(self.unit)
        unit_of = np.cumsum(starts == np.arange(len(starts))) - 1
        return unit_of, *_first_places(self.numbers, unit_of, len(self.words)), len(self.words)

    @cached_property
    def _covered(self) -> IntArray:
        """(W,): valid tokens that each word covers."""
        return _following(everywhere(self.reading).places, *self._lists)[0]

    def fit(self, task: Task) -> list[Fitted]:
        """Return the best word of each feature."""
        bits = PER_BIT * float(np.log2(len(self.words) + 1))
        merits, best = _best_since(
            *task.arrays, *self._lists, self._covered, bits, task.base is not None
        )
        names = self.reading.vocabulary.words[0]

        def rule(f: int) -> Rule:
            return SinceRule(names[self.words[best[f]]], self.unit)

        return [Fitted("since", merits - COST["since"], rule)]


def candidates(reading: Reading) -> tuple[IntArray, IntArray]:
    """Return the candidate words, (W,), and which candidate each token is, (T,), or NONE."""
    is_word = reading.words != NONE
    documents = reading.doc_ids[is_word].astype(np.int64)
    pairs = np.unique(reading.words[is_word] * (documents.max(initial=0) + 1) + documents)
    word, n_documents = np.unique(pairs // (documents.max(initial=0) + 1), return_counts=True)
    n_tokens = np.bincount(reading.words[is_word], minlength=len(reading.vocabulary.words[0]))
    word = word[n_documents >= MIN_DOCUMENTS]
    word = np.sort(word[np.argsort(-n_tokens[word], kind="stable")][:MAX_WORDS])
    table = np.full(len(n_tokens) + 1, NONE)  # the last entry serves words that are NONE
    table[word] = np.arange(len(word))
    return word, table[reading.words]


@numba.njit(cache=True, nogil=True)
def _nearby(
    places: IntArray, segment_starts: IntArray, numbers: IntArray, n_words: int, within: IntArray
) -> IntArray:
    """Return (N, W): how many places have each word among the tokens before, so near."""
    hits = np.zeros((len(within), n_words), np.int64)
    last = np.full(n_words, -1, np.int64)
    for place in places:
        n = 0
        for distance in range(1, within[-1] + 1):
            if place - distance < segment_starts[place]:
                break
            if distance > within[n]:
                n += 1
            word = numbers[place - distance]
            if word >= 0 and last[word] != place:
                last[word] = place
                hits[n, word] += 1
    for n in range(1, len(within)):
        hits[n] += hits[n - 1]
    return hits


@numba.njit(cache=True, nogil=True)
def _best_after(
    starts: IntArray,
    places: IntArray,
    base_starts: IntArray,
    base_places: IntArray,
    hit_scale: Floats,
    base_scale: Floats,
    n_positive: IntArray,
    n_valid: float,
    segment_starts: IntArray,
    numbers: IntArray,
    n_words: int,
    within: IntArray,
    everywhere: IntArray,
    bits: float,
    has_base: bool,
) -> tuple[Floats, IntArray]:
    """Return (F,) merits and (F, 2) words and numbers of distances.

    One activation less is counted than there is, so that a word seen once with a feature is no
    find.
    """
    merits = np.full(len(starts) - 1, -np.inf)
    best = np.zeros((len(starts) - 1, 2), np.int64)
    for f in range(len(starts) - 1):
        if starts[f] == starts[f + 1]:
            continue
        here = places[starts[f] : starts[f + 1]]
        hits = _nearby(here, segment_starts, numbers, n_words, within)
        covered, scale = everywhere, 1.0
        if has_base:
            scale = base_scale[f]
            base = base_places[base_starts[f] : base_starts[f + 1]]
            covered = _nearby(base, segment_starts, numbers, n_words, within)
        for n in range(len(within)):
            for w in range(n_words):
                if hits[n, w] < 2:
                    continue
                h, c = (hits[n, w] - 1) * hit_scale[f], covered[n, w] * scale
                value = merit(h, c, n_positive[f], n_valid) - bits / n_positive[f]
                if value > merits[f]:
                    merits[f] = value
                    best[f] = (w, n)
    return merits, best


@numba.njit(cache=True, nogil=True)
def _first_places(
    numbers: IntArray, unit_of: IntArray, n_words: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Return (U + 1,) starts, (P,) places and (P,) words: where each word of a unit is first."""
    n_units = unit_of[-1] + 1 if len(unit_of) else 0
    pointers = np.zeros(n_units + 1, np.int64)
    places, words = np.empty(len(numbers), np.int64), np.empty(len(numbers), np.int64)
    last = np.full(n_words, -1, np.int64)
    n = 0
    for t in range(len(numbers)):
        word, unit = numbers[t], unit_of[t]
        if word >= 0 and last[word] != unit:
            last[word] = unit
            places[n], words[n] = t, word
            n += 1
        pointers[unit + 1] = n
    return pointers, places[:n], words[:n]


@numba.njit(cache=True, nogil=True)
def _following(
    places: IntArray,
    unit_of: IntArray,
    pointers: IntArray,
    first_places: IntArray,
    first_words: IntArray,
    n_words: int,
) -> tuple[IntArray, IntArray]:
    """Return (W,): how many places follow each word in their unit, and in how many units."""
    hits, units = np.zeros(n_words, np.int64), np.zeros(n_words, np.int64)
    i = 0
    while i < len(places):
        unit, j = unit_of[places[i]], i
        while j < len(places) and unit_of[places[j]] == unit:
            j += 1
        for p in range(pointers[unit], pointers[unit + 1]):
            while i < j and places[i] <= first_places[p]:
                i += 1
            if i == j:
                break
            hits[first_words[p]] += j - i
            units[first_words[p]] += 1
        i = j
    return hits, units


@numba.njit(cache=True, nogil=True)
def _best_since(
    starts: IntArray,
    places: IntArray,
    base_starts: IntArray,
    base_places: IntArray,
    hit_scale: Floats,
    base_scale: Floats,
    n_positive: IntArray,
    n_valid: float,
    unit_of: IntArray,
    pointers: IntArray,
    first_places: IntArray,
    first_words: IntArray,
    n_words: int,
    everywhere: IntArray,
    bits: float,
    has_base: bool,
) -> tuple[Floats, IntArray]:
    """Return (F,) merits and words."""
    merits, best = np.full(len(starts) - 1, -np.inf), np.zeros(len(starts) - 1, np.int64)
    for f in range(len(starts) - 1):
        if starts[f] == starts[f + 1]:
            continue
        here = places[starts[f] : starts[f + 1]]
        hits, units = _following(here, unit_of, pointers, first_places, first_words, n_words)
        covered, scale = everywhere, 1.0
        if has_base:
            scale = base_scale[f]
            base = base_places[base_starts[f] : base_starts[f + 1]]
            covered = _following(base, unit_of, pointers, first_places, first_words, n_words)[0]
        for w in range(n_words):
            if units[w] < MIN_UNITS:
                continue
            h, c = (hits[w] - 1) * hit_scale[f], covered[w] * scale
            value = merit(h, c, n_positive[f], n_valid) - bits / n_positive[f]
            if value > merits[f]:
                merits[f], best[f] = value, w
    return merits, best
