"""Fit sets of symbols: tokens, tokens before, pairs, words, domains.

Symbols are sorted by the share of their occurrences on which the feature fires, and the list is
cut where merit is highest; for a measure that rises in hits and falls in false alarms the best set
is such a prefix. Shares are shrunk to the feature's density, and a symbol must be seen with the
feature in two documents: one is no rule. Within a base, the set may also name what to leave out.

T tokens, F features, S symbols.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np

from deepseemoe.labels.counts import Firing, merit
from deepseemoe.labels.fit.task import COST, PER_BIT, PER_DOUBLING, Fitted, Floats, Task
from deepseemoe.labels.reading import NONE, IntArray, Reading
from deepseemoe.labels.rules import NotRule, Rule

MAX_SET = 64
"""Symbols of one set; a longer list is no description."""

MAX_EXCEPTIONS = 8
"""Symbols that a rule leaves out."""

SHRINK = 2.0
"""Occurrences at the feature's density that are added to those of each symbol."""

Make = Callable[[tuple[int, ...]], Rule]


@dataclass(frozen=True)
class Sets:
    """A family: which set of symbols (T,); `make` gets these, the most frequent first."""

    reading: Reading
    symbols: IntArray
    kind: str
    make: Make

    @cached_property
    def _numbered(self) -> tuple[IntArray, IntArray, IntArray]:
        """The symbols (S,), which each token has (T,) or NONE, and how often each occurs (S,)."""
        names, numbers = np.unique(self.symbols, return_inverse=True)
        numbers = np.where(self.symbols == NONE, NONE, numbers)
        is_counted = self.reading.is_valid & (numbers != NONE)
        return names, numbers, np.bincount(numbers[is_counted], minlength=len(names))

    def fit(self, task: Task) -> list[Fitted]:
        """Return the best set of each feature, and within a base the best exception."""
        ways = (False,) if task.base is None else (False, True)
        return [self._fit(task, excepts) for excepts in ways]

    def _fit(self, task: Task, excepts: bool) -> Fitted:
        names, numbers, occurring = self._numbered
        found_FS, merits = _best_sets(
            *task.arrays,
            numbers,
            self.reading.doc_ids.astype(np.int64),
            occurring,
            float(np.log2(max((occurring > 0).sum(), 2))),
            task.base is not None,
            excepts,
        )

        def rule(feature: int) -> Rule:
            row = found_FS[feature]
            one = self.make(tuple(names[row[row != NONE]].tolist()))
            return NotRule(one) if excepts else one

        return Fitted(self.kind, merits - COST[self.kind], rule)


def top_symbols(firing: Firing, symbols: IntArray, n: int) -> list[IntArray]:
    """Return the symbols, small numbers, with which each feature fires most often, n at most."""
    n_symbols = int(symbols.max(initial=0)) + 1
    found = _top_symbols(firing.starts, firing.places, symbols, n_symbols, n)
    return [row[row != NONE] for row in found]


@numba.njit(cache=True, nogil=True)
def _best_sets(
    starts: IntArray,
    places: IntArray,
    base_starts: IntArray,
    base_places: IntArray,
    hit_scale: Floats,
    base_scale: Floats,
    n_positive: IntArray,
    n_valid: float,
    symbols: IntArray,
    documents: IntArray,
    occurring: IntArray,
    bits: float,
    has_base: bool,
    excepts: bool,
) -> tuple[IntArray, Floats]:
    """Return (F, MAX_SET) the sets, padded with NONE, and (F,) their merits."""
    n_features, n_symbols = len(starts) - 1, len(occurring)
    hits = np.zeros(n_symbols, np.int64)
    cover = np.zeros(n_symbols, np.int64)
    n_documents = np.zeros(n_symbols, np.int64)
    last = np.full(n_symbols, -1, np.int64)
    touched = np.empty(n_symbols, np.int64)
    found = np.full((n_features, MAX_SET), NONE, np.int64)
    merits = np.full(n_features, -np.inf)
    for f in range(n_features):
        n = 0
        for i in range(starts[f], starts[f + 1]):
            s = symbols[places[i]]
            if s < 0:
                continue
            if hits[s] == 0:
                touched[n] = s
                n += 1
            hits[s] += 1
            if last[s] != documents[places[i]]:
                last[s] = documents[places[i]]
                n_documents[s] += 1
        n_base = n_valid
        if has_base:
            n_base = (base_starts[f + 1] - base_starts[f]) * base_scale[f]
            for i in range(base_starts[f], base_starts[f + 1]):
                s = symbols[base_places[i]]
                if s < 0:
                    continue
                if cover[s] == 0 and hits[s] == 0:
                    touched[n] = s
                    n += 1
                cover[s] += 1
        all_hits = (starts[f + 1] - starts[f]) * hit_scale[f]
        density = all_hits / max(n_base, 1.0)
        of, h, c = np.empty(n, np.int64), np.empty(n), np.empty(n)
        k = 0
        for s in touched[:n]:
            covered = cover[s] * base_scale[f] if has_base else float(occurring[s])
            hit = hits[s] * hit_scale[f]
            if (excepts and cover[s] - hits[s] > 1) or (not excepts and n_documents[s] > 1):
                of[k], h[k], c[k] = s, hit, covered
                k += 1
            hits[s], cover[s], n_documents[s], last[s] = 0, 0, 0, -1
        if k == 0 or all_hits == 0:
            continue
        of, h, c = of[:k], h[:k], c[:k]
        share = (h + SHRINK * density) / (c + SHRINK)
        by_share = np.argsort(share if excepts else -share, kind="mergesort")
        start = (float(all_hits), float(n_base)) if excepts else (0.0, 0.0)
        sign = -1.0 if excepts else 1.0
        bit = PER_BIT * bits / max(n_positive[f], 1)
        most = MAX_EXCEPTIONS if excepts else MAX_SET
        args = (start, sign, n_positive[f], n_valid, bit, most)
        size, best = _cut(by_share, h, c, args)
        taken = by_share[:size]
        taken = taken[np.argsort(-(c - h)[taken] if excepts else -h[taken], kind="mergesort")]
        fewer, better = _cut(taken, h, c, args)
        if better >= best:
            taken, best = taken[:fewer], better
        merits[f] = best
        found[f, : len(taken)] = of[taken]
    return found, merits


@numba.njit(cache=True, nogil=True)
def _cut(order, hits, cover, args):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return how many symbols of the order make the best set, and its merit."""
    (h, c), sign, n_positive, n_valid, bit, most = args
    size, best = 0, -np.inf
    for n, i in enumerate(order[:most]):
        h += sign * hits[i]
        c += sign * cover[i]
        value = merit(h, c, n_positive, n_valid) - PER_DOUBLING * np.log2(n + 1.0) - bit * (n + 1)
        if value > best:
            size, best = n + 1, value
    return size, best


@numba.njit(cache=True, nogil=True)
def _top_symbols(
    starts: IntArray, places: IntArray, symbols: IntArray, n_symbols: int, n_top: int
) -> IntArray:
    """Return (F, n_top) the most frequent symbols, padded with NONE."""
    hits = np.zeros(n_symbols, np.int64)
    touched = np.empty(n_symbols, np.int64)
    found = np.full((len(starts) - 1, n_top), NONE, np.int64)
    for f in range(len(starts) - 1):
        n = 0
        for i in range(starts[f], starts[f + 1]):
            s = symbols[places[i]]
            if hits[s] == 0:
                touched[n] = s
                n += 1
            hits[s] += 1
        every = np.sort(touched[:n])
        order = np.argsort(-hits[every], kind="mergesort")[:n_top]
        found[f, : len(order)] = every[order]
        hits[every] = 0
    return found
