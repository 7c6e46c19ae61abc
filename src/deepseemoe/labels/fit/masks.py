"""Fit ready rules: states of the text, looks of a token, and ranges of places.

Each is one choice of many known before: which of M masks (T, M), which property of the token's
type, which range of places. Within a base, the opposite of a mask or property is tried too.

T tokens, F features, M masks, U types, P properties of types, E edges of ranges.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np

from deepseemoe.labels.counts import merit
from deepseemoe.labels.fit.properties import Properties
from deepseemoe.labels.fit.task import COST, PER_BIT, Fitted, Floats, Task, chosen
from deepseemoe.labels.reading import NONE, IntArray, Reading
from deepseemoe.labels.rules import Rule

MIN_TYPES = 3
"""Types with a property, seen with the feature: fewer are a list of tokens."""

RANGE_BITS = 10.0
"""Bits of a range, however fine its edges are."""


@dataclass(frozen=True)
class Ready:
    """A family: which of some ready rules."""

    reading: Reading
    rules: Sequence[Rule]

    @cached_property
    def _masks(self) -> tuple[IntArray, IntArray]:
        """(T, M) what each covers, and (M,) how many valid tokens that are."""
        mask_TM = np.stack([rule.applies(self.reading) for rule in self.rules], axis=1)
        return mask_TM.view(np.uint8), mask_TM[self.reading.is_valid].sum(axis=0)

    def fit(self, task: Task) -> list[Fitted]:
        """Return the best of the rules for each feature."""
        merits, options = _best_masks(
            *task.arrays,
            *self._masks,
            PER_BIT * float(np.log2(len(self.rules) + 1)),
            task.base is not None,
        )
        kind = self.rules[0].kind
        return [chosen(kind, merits - COST[kind], options, lambda n: self.rules[n])]


@dataclass(frozen=True)
class Looks:
    """A family: which property of the type of the token so many places before."""

    reading: Reading
    properties: Properties
    distance: int

    @cached_property
    def _types(self) -> tuple[IntArray, Floats]:
        """(T,) the type of the token looked at, or NONE, and (P,) what each property covers."""
        types = self.reading.before(self.distance, self.reading.types[1])
        starts, flat = self.properties.lists
        is_counted = self.reading.is_valid & (types != NONE)
        occurring = np.bincount(types[is_counted], minlength=len(starts) - 1)
        weights = np.repeat(occurring, np.diff(starts))
        return types, np.bincount(flat, weights, minlength=len(self.properties.names))

    def fit(self, task: Task) -> list[Fitted]:
        """Return the best property for each feature."""
        types, covered = self._types
        costs = self.properties.costs(self.distance)
        merits, options = _best_properties(
            *task.arrays,
            types,
            *self.properties.lists,
            covered,
            costs,
            PER_BIT * float(np.log2(len(costs) + 1)),
            task.base is not None,
        )
        make = self.properties.maker(self.distance)
        return [chosen("previous" if self.distance else "shape", merits, options, make)]


@dataclass(frozen=True)
class Ranges:
    """A family: which range of values (T,) between two edges (E,).

    `make` gets the numbers of the two edges; the last edge is the end of all.
    """

    reading: Reading
    values: IntArray
    edges: IntArray
    kind: str
    make: Callable[[int, int], Rule]

    @cached_property
    def _bins(self) -> tuple[IntArray, IntArray]:
        """(T,) where each value lies between the edges, and (E - 1,) valid tokens there."""
        bins = np.searchsorted(self.edges, self.values, side="right") - 1
        return bins, np.bincount(bins[self.reading.is_valid], minlength=len(self.edges) - 1)

    def fit(self, task: Task) -> list[Fitted]:
        """Return the best range for each feature."""
        merits, first, last = _best_ranges(
            *task.arrays,
            *self._bins,
            PER_BIT * RANGE_BITS,
            task.base is not None,
        )
        make = self.make
        return [
            Fitted(self.kind, merits - COST[self.kind], lambda f: make(int(first[f]), int(last[f])))
        ]


@numba.njit(cache=True, nogil=True)
def _best_masks(
    starts: IntArray,
    places: IntArray,
    base_starts: IntArray,
    base_places: IntArray,
    hit_scale: Floats,
    base_scale: Floats,
    n_positive: IntArray,
    n_valid: float,
    mask_TM: IntArray,
    everywhere: IntArray,
    bits: float,
    has_base: bool,
) -> tuple[Floats, IntArray]:
    """Return (F,) merits and options; -n - 1 is the opposite of n."""
    n_features, n_masks = len(starts) - 1, mask_TM.shape[1]
    merits, options = np.full(n_features, -np.inf), np.zeros(n_features, np.int64)
    for f in range(n_features):
        hits = np.zeros(n_masks, np.int64)
        for i in range(starts[f], starts[f + 1]):
            row = mask_TM[places[i]]
            for m in range(n_masks):
                hits[m] += row[m]
        covered, n_base, scale = everywhere, 0, base_scale[f] if has_base else 1.0
        if has_base:
            covered, n_base = np.zeros(n_masks, np.int64), base_starts[f + 1] - base_starts[f]
            for i in range(base_starts[f], base_starts[f + 1]):
                row = mask_TM[base_places[i]]
                for m in range(n_masks):
                    covered[m] += row[m]
        n_hits = starts[f + 1] - starts[f]
        for m in range(n_masks):
            cost = bits / max(n_positive[f], 1)
            for option in (m, -m - 1) if has_base else (m, m):
                h = (hits[m] if option >= 0 else n_hits - hits[m]) * hit_scale[f]
                c = (covered[m] if option >= 0 else n_base - covered[m]) * scale
                value = merit(h, c, n_positive[f], n_valid) - cost
                if value > merits[f]:
                    merits[f], options[f] = value, option
    return merits, options


@numba.njit(cache=True, nogil=True)
def _best_properties(
    starts: IntArray,
    places: IntArray,
    base_starts: IntArray,
    base_places: IntArray,
    hit_scale: Floats,
    base_scale: Floats,
    n_positive: IntArray,
    n_valid: float,
    types: IntArray,
    pointers: IntArray,
    flat: IntArray,
    everywhere: Floats,
    costs: Floats,
    bits: float,
    has_base: bool,
) -> tuple[Floats, IntArray]:
    """Return (F,) merits and options: tokens are counted by type first, types by property then."""
    n_features, n_types, n_properties = len(starts) - 1, len(pointers) - 1, len(costs)
    merits, options = np.full(n_features, -np.inf), np.zeros(n_features, np.int64)
    counts, seen = np.zeros((2, n_types), np.int64), np.empty(n_types, np.int64)
    tallies, touched = np.zeros((3, n_properties)), np.empty(n_properties, np.int64)
    is_touched = np.zeros(n_properties, np.bool_)
    for f in range(n_features):
        n_seen, n_base, n_hits = 0, 0.0, (starts[f + 1] - starts[f]) * hit_scale[f]
        for i in range(starts[f], starts[f + 1]):
            u = types[places[i]]
            if u >= 0:
                if counts[0, u] == 0:
                    seen[n_seen] = u
                    n_seen += 1
                counts[0, u] += 1
        if has_base:
            n_base = (base_starts[f + 1] - base_starts[f]) * base_scale[f]
            for i in range(base_starts[f], base_starts[f + 1]):
                u = types[base_places[i]]
                if u >= 0:
                    if counts[0, u] == 0 and counts[1, u] == 0:
                        seen[n_seen] = u
                        n_seen += 1
                    counts[1, u] += 1
        n = 0
        for u in seen[:n_seen]:
            for j in range(pointers[u], pointers[u + 1]):
                p = flat[j]
                if not is_touched[p]:
                    is_touched[p], touched[n] = True, p
                    n += 1
                tallies[0, p] += counts[0, u]
                tallies[1, p] += counts[1, u]
                tallies[2, p] += counts[0, u] > 0
            counts[0, u] = 0
            counts[1, u] = 0
        for p in np.sort(touched[:n]):
            cost = costs[p] + bits / max(n_positive[f], 1)
            h, covered = tallies[0, p] * hit_scale[f], everywhere[p]
            if has_base:
                covered = tallies[1, p] * base_scale[f]
            if tallies[2, p] >= MIN_TYPES:
                value = merit(h, covered, n_positive[f], n_valid) - cost
                if value > merits[f]:
                    merits[f], options[f] = value, p
            if has_base:
                value = merit(n_hits - h, n_base - covered, n_positive[f], n_valid)
                if value - cost > merits[f]:
                    merits[f], options[f] = value - cost, -p - 1
            tallies[:, p] = 0
            is_touched[p] = False
    return merits, options


@numba.njit(cache=True, nogil=True)
def _best_ranges(
    starts: IntArray,
    places: IntArray,
    base_starts: IntArray,
    base_places: IntArray,
    hit_scale: Floats,
    base_scale: Floats,
    n_positive: IntArray,
    n_valid: float,
    bins: IntArray,
    everywhere: IntArray,
    bits: float,
    has_base: bool,
) -> tuple[Floats, IntArray, IntArray]:
    """Return (F,) merits, first bin and the one after the last."""
    n_features, n_bins = len(starts) - 1, len(everywhere)
    merits = np.full(n_features, -np.inf)
    first, last = np.zeros(n_features, np.int64), np.full(n_features, n_bins, np.int64)
    for f in range(n_features):
        hits = np.zeros(n_bins + 1)
        for i in range(starts[f], starts[f + 1]):
            hits[bins[places[i]] + 1] += 1
        covered = np.zeros(n_bins + 1)
        if has_base:
            for i in range(base_starts[f], base_starts[f + 1]):
                covered[bins[base_places[i]] + 1] += 1
        else:
            covered[1:] = everywhere
        scale = base_scale[f] if has_base else 1.0
        hits, covered = np.cumsum(hits) * hit_scale[f], np.cumsum(covered) * scale
        cost = bits / max(n_positive[f], 1)
        for a in range(n_bins):
            for b in range(a + 1, n_bins + 1):
                if b - a == n_bins:
                    continue
                value = merit(hits[b] - hits[a], covered[b] - covered[a], n_positive[f], n_valid)
                if value - cost > merits[f]:
                    merits[f], first[f], last[f] = value - cost, a, b
    return merits, first, last
