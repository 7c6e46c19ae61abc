"""Fit rules to features: for each kind of rule, the best one of every feature at once.

Sets of symbols (tokens, tokens before, pairs, domains) are fitted by sorting symbols by the share
of their occurrences on which the feature fires, and cutting the list where `merit` is highest; for
a measure that rises in hits and falls in false alarms the best set is such a prefix. Shares are
shrunk to the feature's density, and a symbol must be seen with the feature in two documents: one
is no rule.

T tokens, F features, S symbols, Q pairs of a feature and a symbol.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepseemoe.labels.counts import Firing, merit
from deepseemoe.labels.reading import NONE, BoolArray, IntArray, Reading
from deepseemoe.labels.rules import (
    BigramRule,
    DomainRule,
    PositionRule,
    PreviousRule,
    Rule,
    ShapeRule,
    TokenRule,
)
from deepseemoe.labels.shapes import SHAPES

MAX_SET = 64
"""Symbols of one set; a longer list is no description."""

SHRINK = 2.0
"""Occurrences at the feature's density that are added to those of each symbol."""

PER_DOUBLING = 0.01
"""Merit that a set must gain when its size doubles."""

COST = {
    "token": 0.0,
    "shape": 0.01,
    "domain": 0.01,
    "previous": 0.01,
    "position": 0.01,
    "bigram": 0.02,
    "after": 0.02,
}
"""Merit by which a kind must be better than a token: of two rules that fit, take the plainer."""

POSITIONS = (2, 4, 8, 16, 32)

Floats = npt.NDArray[np.float64]


class Fitted(NamedTuple):
    """The best rule of one kind for each feature."""

    merits: Floats
    """(F,) after the cost of its kind and size; -inf where there is no such rule"""
    rule: Callable[[int], Rule]
    """Makes the rule of a feature, by its place in the list of features"""


class Pairs(NamedTuple):
    """How often symbols occur where features fire; sorted by feature; (Q,) each."""

    features: IntArray
    symbols: IntArray
    counts: IntArray
    n_documents: IntArray


def fit_all(reading: Reading, firing: Firing) -> list[Fitted]:
    """Return the best rule of each feature in each kind that needs no trigger."""
    tokens = reading.token_ids.astype(np.int64)
    shapes = reading.vocabulary.shapes[reading.token_ids]
    openings = np.stack([reading.positions < n for n in POSITIONS], axis=1)
    fitted = [
        _fit_sets(reading, firing, tokens, "token", TokenRule),
        _fit_sets(reading, firing, reading.previous, "previous", PreviousRule),
        _fit_sets(reading, firing, reading.bigrams, "bigram", _bigram_rule),
        _fit_masks(reading, firing, shapes, [ShapeRule(name) for name in SHAPES]),
        _fit_masks(reading, firing, openings, [PositionRule(n) for n in POSITIONS]),
    ]
    if len(np.unique(reading.domains[reading.domains != NONE])) > 1:
        names = reading.domain_names
        fitted.append(
            _fit_sets(
                reading,
                firing,
                reading.domains,
                "domain",
                lambda found: DomainRule(tuple(names[n] for n in found)),
            )
        )
    return fitted


def count_pairs(firing: Firing, symbols: IntArray, doc_ids: IntArray) -> Pairs:
    """Return how often each symbol (T,) occurs with each feature; NONE is no symbol.

    `symbols` are small numbers from 0.
    """
    here = symbols[firing.places]
    is_symbol = here != NONE
    n_symbols = int(symbols.max(initial=0)) + 1
    keys = (firing.features.astype(np.int64) * n_symbols + here)[is_symbol]
    order = np.argsort(keys, kind="stable")
    keys, documents = keys[order], doc_ids[firing.places][is_symbol][order]
    opens = np.ones(len(keys), bool)
    opens[1:] = keys[1:] != keys[:-1]
    is_new = opens.copy()
    is_new[1:] |= documents[1:] != documents[:-1]
    starts = np.flatnonzero(opens)
    counts = np.diff(np.append(starts, len(keys)))
    n_documents = np.add.reduceat(is_new, starts, dtype=np.int64) if len(starts) else counts
    features, found = np.divmod(keys[starts], n_symbols)
    return Pairs(features, found, counts, n_documents)


def _fit_sets(
    reading: Reading,
    firing: Firing,
    symbols: IntArray,
    kind: str,
    make: Callable[[tuple[int, ...]], Rule],
) -> Fitted:
    """Return the best set of symbols for each feature."""
    names, numbers = np.unique(symbols, return_inverse=True)
    numbers = np.where(symbols == NONE, NONE, numbers)
    n_occurring = np.bincount(numbers[reading.is_valid & (numbers != NONE)], minlength=len(names))
    pairs = count_pairs(firing, numbers, reading.doc_ids)
    pairs = Pairs(*(column[pairs.n_documents > 1] for column in pairs))
    occurring = n_occurring[pairs.symbols]
    density = (firing.n_positive / max(firing.n_valid, 1))[pairs.features]
    share = (pairs.counts + SHRINK * density) / (occurring + SHRINK)
    order = np.lexsort((pairs.symbols, -share, pairs.features))
    pairs, occurring = Pairs(*(column[order] for column in pairs)), occurring[order]
    starts = np.searchsorted(pairs.features, np.arange(firing.n_features + 1))
    size = np.arange(len(order)) - starts[pairs.features] + 1
    hits, covered = _cumulative(pairs.counts, starts), _cumulative(occurring, starts)
    merits = merit(hits, covered, firing.n_positive[pairs.features], firing.n_valid)
    merits -= COST[kind] + PER_DOUBLING * np.log2(size)
    merits[size > MAX_SET] = -np.inf
    best = _first_best(merits, starts)

    def rule(feature: int) -> Rule:
        chosen = slice(starts[feature], best[feature] + 1)
        by_count = np.argsort(-pairs.counts[chosen], kind="stable")
        return make(tuple(names[pairs.symbols[chosen][by_count]].tolist()))

    return Fitted(_at(merits, best), rule)


def _fit_masks(
    reading: Reading, firing: Firing, masks: BoolArray, rules: list[ShapeRule] | list[PositionRule]
) -> Fitted:
    """Return the best of some ready rules for each feature; `masks` is (T, rules)."""
    covered = masks[reading.is_valid].sum(axis=0)
    features, n_features = firing.features, firing.n_features
    hits = [np.bincount(features[mask[firing.places]], minlength=n_features) for mask in masks.T]
    merits = merit(np.stack(hits, axis=1), covered, firing.n_positive[:, None], firing.n_valid)
    best = merits.argmax(axis=1)
    return Fitted(
        merits[np.arange(n_features), best] - COST[rules[0].kind],
        lambda feature: rules[best[feature]],
    )


def _bigram_rule(found: tuple[int, ...]) -> Rule:
    return BigramRule(tuple((key >> 32, key & 0xFFFFFFFF) for key in found))


def _cumulative(counts: IntArray, starts: IntArray) -> IntArray:
    """Return the sums of counts from the start of each feature's run."""
    total = np.concatenate([[0], np.cumsum(counts)])
    return total[1:] - np.repeat(total[starts[:-1]], np.diff(starts))


def _first_best(merits: Floats, starts: IntArray) -> IntArray:
    """Return (F,): where each feature's run has its maximum first, -1 for an empty run."""
    features = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.lexsort((np.arange(len(merits)), -merits, features))
    best = np.full(len(starts) - 1, -1)
    is_filled = np.diff(starts) > 0
    best[is_filled] = order[starts[:-1][is_filled]]
    return best


def _at(merits: Floats, best: IntArray) -> Floats:
    return np.where(best >= 0, merits[best] if len(merits) else -np.inf, -np.inf)
