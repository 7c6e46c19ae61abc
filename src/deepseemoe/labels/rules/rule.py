"""What every rule is, and how texts stand in a label.

T tokens.
"""

import json
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from deepseemoe.labels.reading import NONE, BoolArray, Reading, Vocabulary

SHOWN = 5
"""Tokens of a set that a label names; `detail` has them all."""


class Rule(Protocol):
    """A predicate over tokens."""

    kind: ClassVar[str]

    def applies(self, reading: Reading) -> BoolArray:
        """Return (T,): on which tokens the rule says that the feature fires."""
        ...

    def label(self, vocabulary: Vocabulary) -> str:
        """Return the rule in words."""
        ...


def quoted(texts: Sequence[str]) -> str:
    """Return `“def”, “class” and 3 more`, without spaces around words; equal texts stand once."""
    shown = [f"“{_visible(text)}”" for text in texts]
    return listed(list(dict.fromkeys(shown)))


def listed(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def is_in(numbers: np.ndarray[Any, Any], wanted: Sequence[int], size: int) -> BoolArray:
    """Return which numbers, below `size` or NONE, are wanted; NONE never is."""
    table = np.zeros(size + 1, bool)
    table[list(wanted)] = True
    table[NONE] = False
    return table[numbers]


def numbers_of(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return where some names stand in a list; names that it lacks are left out."""
    chosen = frozenset(wanted)
    return [number for number, name in enumerate(names) if name in chosen]


def _visible(text: str) -> str:
    """Return a text on one line; blank tokens keep their spaces, since these are all they are."""
    shown = text.strip() or text
    return json.dumps(shown, ensure_ascii=False)[1:-1].replace('\\"', '"')
