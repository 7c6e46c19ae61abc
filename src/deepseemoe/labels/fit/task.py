"""What rules are fitted to, what they must be better by, and what comes out.

Of two rules that fit, take the plainer: each kind has a cost in merit, and each choice among N
symbols, words or masks costs log2 N bits more, spread over the activations that it must explain
(minimum description length, with about ten bits for an activation). So a feature with few
activations gets a rule only if that is simple.

T tokens, F features.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from deepseemoe.labels.counts import Firing
from deepseemoe.labels.reading import IntArray, Reading
from deepseemoe.labels.rules import NotRule, Rule

Floats = npt.NDArray[np.float64]

PER_BIT = 0.1
"""Merit of a bit of a rule, for a feature with one activation."""

PER_DOUBLING = 0.015
"""Merit that a set must gain when its size doubles."""

COST = {
    "token": 0.0,
    "shape": 0.01,
    "affix": 0.015,
    "length": 0.02,
    "domain": 0.01,
    "previous": 0.01,
    "position": 0.015,
    "word": 0.015,
    "inside": 0.015,
    "line": 0.015,
    "repeated": 0.015,
    "bigram": 0.02,
    "after": 0.02,
    "since": 0.02,
    "every": 0.03,
    "trigram": 0.03,
}
"""Merit by which a kind must be better than a token."""

PER_PART = 0.03
"""Merit that a rule of several parts must gain with each of them."""


class Task(NamedTuple):
    """Fit the best rule of each feature; within `base`, where there is one.

    A rule that is fitted within a base is to hold together with the base: both are merited as one.
    """

    firing: Firing
    """Activations that a rule can explain: all, or those within the base"""
    n_positive: IntArray
    """(F,) all activations of each feature"""
    base: Firing | None = None
    """Tokens that the base of each feature covers"""
    hit_scale_F: Floats | None = None
    """What a counted activation stands for, where only some documents are counted"""
    base_scale_F: Floats | None = None
    """What a counted token of the base stands for"""

    @classmethod
    def of(cls, firing: Firing) -> "Task":
        """Return the task without a base."""
        return cls(firing, firing.n_positive)

    @property
    def arrays(self) -> tuple[Any, ...]:
        """What every kernel takes first: starts and places of firing and base, scales, counts."""
        base, ones = self.base, np.ones(self.firing.n_features)
        return (
            self.firing.starts,
            self.firing.places,
            np.zeros(1, np.int64) if base is None else base.starts,
            np.zeros(0, np.int32) if base is None else base.places,
            ones if self.hit_scale_F is None else self.hit_scale_F,
            ones if self.base_scale_F is None else self.base_scale_F,
            self.n_positive,
            float(self.firing.n_valid),
        )


class Fitted(NamedTuple):
    """The best rule of one family for each feature."""

    kind: str
    merits: Floats
    """(F,) after all costs; -inf where there is no such rule"""
    rule: Callable[[int], Rule]
    """Makes the rule of a feature, by its place in the list of features"""


class Family(Protocol):
    """Rules of one sort over one text, fitted to many features at once."""

    def fit(self, task: Task) -> list[Fitted]:
        """Return the best rule of each feature; more than one where families differ within."""
        ...


def everywhere(reading: Reading) -> Firing:
    """Return the valid tokens as if they were one feature: what rules cover is counted alike."""
    valid = np.flatnonzero(reading.is_valid)
    return Firing.joined([valid], len(valid))


def chosen(kind: str, merits: Floats, options: IntArray, make: Callable[[int], Rule]) -> Fitted:
    """Return fitted rules where each feature's is option n, or option -n - 1 turned round."""

    def rule(feature: int) -> Rule:
        option = int(options[feature])
        return make(option) if option >= 0 else NotRule(make(-option - 1))

    return Fitted(kind, merits, rule)
