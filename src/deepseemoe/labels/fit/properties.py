"""What the types of a text look like: shapes, beginnings, endings and letters within.

U types, P properties.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deepseemoe.labels.fit.task import COST, Floats
from deepseemoe.labels.reading import IntArray, Reading
from deepseemoe.labels.rules import AffixRule, Rule, ShapeRule
from deepseemoe.labels.shapes import SHAPES

Property = tuple[str, str]
"""How, as in AffixRule or `shape`, and the text or name of it."""

AFFIX_LENGTHS = range(1, 6)
PART_LENGTHS = range(1, 4)

MIN_TYPES = 3
"""Types that share an affix."""


@dataclass(frozen=True)
class Properties:
    """The properties of the types of a reading."""

    names: list[Property]
    lists: tuple[IntArray, IntArray]
    """(U + 1,) starts, and the flat list of the properties of each type"""

    @classmethod
    def of(cls, reading: Reading) -> "Properties":
        """Return the properties of the types that occur."""
        ids, vocabulary = reading.types[0], reading.vocabulary
        types_of: dict[Property, list[int]] = defaultdict(list)
        for u, token in enumerate(ids.tolist()):
            for found in affixes(vocabulary.plain[token]):
                types_of[found].append(u)
        for n, shape in enumerate(SHAPES):
            types_of["shape", shape] = np.flatnonzero(vocabulary.shapes[ids, n]).tolist()
        names = sorted(name for name, types in types_of.items() if len(types) >= MIN_TYPES)
        flat = np.concatenate([np.zeros(0, np.int64), *(np.array(types_of[n]) for n in names)])
        of = np.repeat(np.arange(len(names)), [len(types_of[name]) for name in names])
        order = np.argsort(flat, kind="stable")
        starts = np.searchsorted(flat[order], np.arange(len(ids) + 1))
        return cls(names, (starts, of[order].astype(np.int64)))

    def costs(self, distance: int) -> Floats:
        """Return (P,) what each property costs."""
        further = COST["previous"] * distance
        costs = [COST["shape" if how == "shape" else "affix"] for how, _ in self.names]
        part = [0.01 * (how == "contains") for how, _ in self.names]
        return np.array(costs) + np.array(part) + further

    def maker(self, distance: int) -> Callable[[int], Rule]:
        """Return what makes the rule of a property of the token so many places before."""
        return lambda n: make(self.names[n], distance)


def make(found: Property, distance: int) -> Rule:
    """Return the rule of a property."""
    how, text = found
    if how == "shape":
        return ShapeRule(text, distance)
    return AffixRule(how, text, distance)  # type: ignore[arg-type]


def affixes(text: str) -> set[Property]:
    """Return beginnings and endings up to 5 letters, and parts up to 3, of a text."""
    found: set[Property] = set()
    for n in AFFIX_LENGTHS:
        if n <= len(text):
            found |= {("begins", text[:n]), ("ends", text[-n:])}
    for n in PART_LENGTHS:
        found |= {("contains", text[i : i + n]) for i in range(len(text) - n + 1)}
    return found
