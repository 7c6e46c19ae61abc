"""The best rule of each feature: one of a family, two at once, or one of two.

Two at once: within what a rule covers (its base), every family is fitted again, so that a second
rule, or its opposite, cuts away false alarms. One of two: every family is fitted to the activations
that the best rule leaves out. Either must gain more merit than it costs.

T tokens, F features, B features of a block.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from deepseemoe.features.halves import mixed
from deepseemoe.labels.counts import Firing, merit
from deepseemoe.labels.fit.families import families_of, serves_second
from deepseemoe.labels.fit.task import COST, PER_PART, Fitted, Floats, Task
from deepseemoe.labels.reading import BoolArray, IntArray, Reading
from deepseemoe.labels.rules import BothRule, EitherRule, Rule

GROUPS = (
    ("token", "word", "shape", "length", "bigram", "trigram"),
    ("previous", "after", "since", "line"),
    ("domain", "position", "every", "inside", "repeated"),
)
"""Kinds that tell of the token, of what stood before, and of the place."""

N_BASES = 2
"""Groups whose best rule is tried as a base."""

MIN_MERIT = 0.05
"""A base with less tells nothing."""

MAX_MERIT = 0.97
"""With more there is nothing to gain."""

MAX_SHARE = 0.6
"""Share of all tokens that a base may cover."""

FEWEST = 12
"""Activations of a feature for which rules of several parts are sought."""

MIN_LEFT = 0.15
"""Share of the activations that a rule must leave out for another to be sought."""

GOOD_ENOUGH = 0.8
"""Merit with which no other rule is sought beside it."""

MIN_REST = 0.3
"""Merit of a second rule on the activations that the first leaves out."""

MOST_PLACES = 4096
"""Activations of a feature that are counted: more are sampled, whole documents at a time."""

MOST_BASE = 2048
"""Tokens of a base that are counted; more, if these hold too few activations."""

LEAST_HITS = 256
"""Activations within a base that are counted, if it is not far too large."""

TOO_LARGE = 4
"""Times MOST_BASE."""

MOST_ALTERNATIVES = 2
"""Rules beside the first, any of which may hold."""

GOOD_MERIT = 0.6
"""With more, one base is enough."""

SLACK = 0.01
"""Merit by which an estimate from some documents may be wrong."""

COST_OF_NOT = 0.02

BLOCK_PLACES = 1 << 25
"""Tokens that the bases of one block of features may cover."""


class Found(NamedTuple):
    """A rule of one feature."""

    rule: Rule
    merit: float
    """After all costs"""
    cost: float
    places: IntArray
    """Valid tokens that it covers"""


class Search:
    """The search over one text; features come in blocks, which bounds its memory."""

    def __init__(self, reading: Reading, firing: Firing):
        """Take the text and where all features fire in it."""
        self._reading, self._firing = reading, firing
        self._families = families_of(reading)
        self._second_families = [one for one in self._families if serves_second(one)]
        self._draws = mixed(reading.doc_ids) / 2.0**64  # (T,) one number a document

    def rules(self) -> list[Rule | None]:
        """Return the best rule of each feature over all kinds; None where nothing repeats."""
        n_features = self._firing.n_features
        fitted = self._fit(self._task(self._firing, MOST_PLACES))
        block = max(1, int(BLOCK_PLACES / MAX_SHARE) // max(len(self._reading.token_ids), 1))
        found: list[Rule | None] = []
        for first in range(0, n_features, block):
            features = range(first, min(first + block, n_features))
            found += [one and one.rule for one in self._best(fitted, features)]
        return found

    def _best(self, fitted: list[Fitted], features: range) -> list[Found | None]:
        own = Firing.joined([self._firing.places_of(f) for f in features], self._firing.n_valid)
        ranked = [self._bases(fitted, features, own, rank) for rank in range(N_BASES)]
        best = ranked[0]
        for rank, bases in enumerate(ranked):
            enough = GOOD_MERIT if rank else MAX_MERIT
            best = self._better(best, self._both(own, bases, best, enough))
        for n in range(MOST_ALTERNATIVES):
            best = self._better(best, self._either(own, best, is_first=n == 0))
        return best

    @staticmethod
    def _better(one: list[Found | None], other: list[Found | None]) -> list[Found | None]:
        return [
            b if b is not None and (a is None or b.merit > a.merit) else a
            for a, b in zip(one, other, strict=True)
        ]

    def _fit(self, task: Task) -> list[Fitted]:
        families = self._families if task.base is None else self._second_families
        return [one for family in families for one in family.fit(task)]

    def _bases(
        self, fitted: list[Fitted], features: range, own: Firing, rank: int
    ) -> list[Found | None]:
        """Return the best rule of each feature, or of the group that comes next."""
        group_of = np.array(
            [next(n for n, g in enumerate(GROUPS) if one.kind in g) for one in fitted]
        )
        merits = np.stack([one.merits[features.start : features.stop] for one in fitted])
        groups = np.stack([merits[group_of == n].max(axis=0) for n in range(len(GROUPS))])
        chosen = np.argsort(-groups, axis=0, kind="stable")[rank]
        allowed = np.where(group_of[:, None] == chosen, merits, -np.inf)
        best = allowed.argmax(axis=0)
        floor = MIN_MERIT if rank else 0.0
        return [
            self._found(own.places_of(n), fitted[k].rule(f), allowed[k, n])
            if allowed[k, n] > floor
            else None
            for n, (f, k) in enumerate(zip(features, best, strict=True))
        ]

    def _found(self, fires: IntArray, rule: Rule, net: float) -> Found:
        places = self._covered(rule)
        return Found(rule, net, self._merit(fires, places, len(fires)) - net, places)

    def _covered(self, rule: Rule) -> IntArray:
        return np.flatnonzero(rule.applies(self._reading) & self._reading.is_valid)

    def _merit(self, fires: IntArray, places: IntArray, n_positive: int) -> float:
        hits = len(self._within_places(fires, places))
        return float(merit(float(hits), float(len(places)), float(n_positive), self._n_valid))

    @property
    def _n_valid(self) -> float:
        return float(self._firing.n_valid)

    def _both(
        self, own: Firing, bases: list[Found | None], best: list[Found | None], enough: float
    ) -> list[Found | None]:
        """Return each base with the second rule that cuts away most of its false alarms."""
        limit = MAX_SHARE * self._n_valid
        tried = [
            base
            if base
            and len(base.places) <= limit
            and n_positive >= FEWEST
            and (top is None or top.merit < enough)
            else None
            for base, top, n_positive in zip(bases, best, own.n_positive, strict=True)
        ]
        picked = self._picked(self._within(own, tried))
        return [
            self._joined(own.places_of(f), base, top, second) if base else None
            for f, (base, top, second) in enumerate(zip(tried, best, picked, strict=True))
        ]

    def _task(self, firing: Firing, most: int) -> Task:
        """Return the task without a base; of `most` activations or more some documents count."""
        counted = [
            self._some(firing.places_of(f), most / max(n, 1))
            for f, n in enumerate(firing.n_positive.tolist())
        ]
        some = Firing.joined(counted, firing.n_valid)
        return Task(some, firing.n_positive, hit_scale_F=_scale(firing, some))

    def _within(self, own: Firing, bases: list[Found | None]) -> Task:
        """Return the task within bases, large ones by some documents only."""
        empty = np.zeros(0, np.int32)
        places = [empty if base is None else base.places for base in bases]
        hits = [self._within_places(own.places_of(f), p) for f, p in enumerate(places)]
        few = [MOST_BASE / max(len(p), 1) for p in places]
        shares = [
            min(max(share, LEAST_HITS / max(len(h), 1)), TOO_LARGE * share)
            for share, h in zip(few, hits, strict=True)
        ]
        all_hits, all_base = Firing.joined(hits, own.n_valid), Firing.joined(places, own.n_valid)
        hit = Firing.joined(list(map(self._some, hits, shares)), own.n_valid)
        base = Firing.joined(list(map(self._some, places, shares)), own.n_valid)
        return Task(hit, own.n_positive, base, _scale(all_hits, hit), _scale(all_base, base))

    def _some(self, places: IntArray, share: float) -> IntArray:
        """Return the places that lie in about that share of the documents."""
        return places if share >= 1 else places[self._draws[places] < share]

    def _picked(self, task: Task) -> list[tuple[float, Callable[[], Rule]]]:
        """Return the merit of the best rule of each feature, and what makes it."""
        fitted = self._fit(task)
        merits = np.stack([one.merits for one in fitted])
        return [
            (float(merits[k, f]), partial(fitted[k].rule, f))
            for f, k in enumerate(merits.argmax(axis=0))
        ]

    def _joined(
        self,
        fires: IntArray,
        base: Found,
        best: Found | None,
        second: tuple[float, Callable[[], Rule]],
    ) -> Found | None:
        if best is not None and second[0] - base.cost - PER_PART + SLACK <= best.merit:
            return None
        other = second[1]()
        places = base.places[other.applies(self._reading)[base.places]]
        is_first = other.kind in GROUPS[0] and base.rule.kind not in GROUPS[0]
        rule = BothRule(other, base.rule) if is_first else BothRule(base.rule, other)
        cost = base.cost + PER_PART + COST.get(other.kind, COST_OF_NOT)
        return Found(rule, self._merit(fires, places, len(fires)) - cost, cost, places)

    def _either(
        self, own: Firing, best: list[Found | None], *, is_first: bool
    ) -> list[Found | None]:
        """Return each best rule with another for the activations that it leaves out."""
        rest = [self._left_out(own.places_of(f), one, is_first) for f, one in enumerate(best)]
        picked = self._picked(self._task(Firing.joined(rest, own.n_valid), MOST_BASE))
        return [
            self._united(own.places_of(f), one, left, second)
            if one and second[0] > MIN_REST
            else None
            for f, (one, left, second) in enumerate(zip(best, rest, picked, strict=True))
        ]

    def _left_out(self, fires: IntArray, one: Found | None, is_first: bool) -> IntArray:
        """Return the activations that another rule should explain: none where these are few."""
        if one is None or one.merit > GOOD_ENOUGH or len(fires) < FEWEST:
            return fires[:0]
        if not is_first and not isinstance(one.rule, EitherRule):
            return fires[:0]
        rest = self._within_places(fires, one.places, is_in=False)
        return rest if len(rest) > MIN_LEFT * len(fires) else fires[:0]

    def _within_places(self, some: IntArray, places: IntArray, *, is_in: bool = True) -> IntArray:
        """Return which of some places are among others, or are not."""
        return some[self._table(places)[some] == is_in]

    def _table(self, *places: IntArray) -> BoolArray:
        """Return (T,): which tokens are among the places."""
        table = np.zeros(len(self._reading.token_ids), bool)
        for some in places:
            table[some] = True
        return table

    def _united(
        self, fires: IntArray, one: Found, rest: IntArray, second: tuple[float, Callable[[], Rule]]
    ) -> Found:
        other = self._found(rest, second[1](), second[0])
        places = np.flatnonzero(self._table(one.places, other.places))
        cost = one.cost + max(other.cost, 0.0) + PER_PART
        net = self._merit(fires, places, len(fires)) - cost
        return Found(EitherRule(one.rule, other.rule), net, cost, places)


def _scale(whole: Firing, some: Firing) -> Floats:
    """Return (F,): how many places each counted one stands for."""
    return whole.n_positive / np.maximum(some.n_positive, 1)
