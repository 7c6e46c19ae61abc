"""Rules that say on which tokens a feature fires: executable on any text, and put into words.

V vocabulary, T tokens.
"""

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from deepseemoe.labels.reading import NONE, BoolArray, Reading, Vocabulary, bigram_key
from deepseemoe.labels.shapes import SHAPES

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


@dataclass(frozen=True)
class TokenRule:
    """The current token is one of a set, the most frequent first."""

    kind: ClassVar[str] = "token"
    tokens: tuple[int, ...]

    def applies(self, reading: Reading) -> BoolArray:
        """Return where the token is in the set."""
        return _is_in(reading.token_ids, self.tokens, len(reading.vocabulary.texts))

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `token “def”, “class” and 3 more`."""
        return f"token {quoted([vocabulary.texts[token] for token in self.tokens])}"


@dataclass(frozen=True)
class PreviousRule:
    """The token before, in the same segment, is one of a set."""

    kind: ClassVar[str] = "previous"
    tokens: tuple[int, ...]

    def applies(self, reading: Reading) -> BoolArray:
        """Return where the token before is in the set."""
        return _is_in(reading.previous, self.tokens, len(reading.vocabulary.texts))

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `right after “of”`."""
        return f"right after {quoted([vocabulary.texts[token] for token in self.tokens])}"


@dataclass(frozen=True)
class BigramRule:
    """The token before and the current one are one of a set of pairs."""

    kind: ClassVar[str] = "bigram"
    pairs: tuple[tuple[int, int], ...]

    def applies(self, reading: Reading) -> BoolArray:
        """Return where the pair that ends at a token is in the set."""
        before, token = np.array(self.pairs).T
        return np.isin(reading.bigrams, bigram_key(before, token))

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `end of “New York”`."""
        texts = vocabulary.texts
        return f"end of {quoted([texts[before] + texts[token] for before, token in self.pairs])}"


@dataclass(frozen=True)
class AfterRule:
    """A word stands among the `within` tokens before, in the same segment."""

    kind: ClassVar[str] = "after"
    word: str
    within: int

    def applies(self, reading: Reading) -> BoolArray:
        """Return which tokens follow the word closely enough."""
        n_tokens = len(reading.token_ids)
        targets = self._places(reading)[:, None] + np.arange(1, self.within + 1)
        origins = np.broadcast_to(targets[:, :1] - 1, targets.shape)
        is_inside = targets < n_tokens
        targets, origins = targets[is_inside], origins[is_inside]
        mask = np.zeros(n_tokens, bool)
        mask[targets[reading.segment_starts[targets] <= origins]] = True
        return mask

    def _places(self, reading: Reading) -> np.ndarray[Any, Any]:
        """Return where the word stands."""
        words = reading.vocabulary.words[0]
        index = bisect_left(words, self.word)
        if index == len(words) or words[index] != self.word:
            return np.zeros(0, np.int64)
        order, starts = reading.places_of_word
        return order[starts[index] : starts[index + 1]]

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `after “import” (within 3 tokens)`."""
        return f"after {quoted([self.word])} (within {self.within} tokens)"


@dataclass(frozen=True)
class ShapeRule:
    """The current token's text has a shape."""

    kind: ClassVar[str] = "shape"
    shape: str

    def applies(self, reading: Reading) -> BoolArray:
        """Return where the token has the shape."""
        return reading.vocabulary.shapes[reading.token_ids, list(SHAPES).index(self.shape)]

    def label(self, vocabulary: Vocabulary) -> str:
        """Return the name of the shape, such as `digits`."""
        return self.shape


@dataclass(frozen=True)
class DomainRule:
    """The document is of one of some domains."""

    kind: ClassVar[str] = "domain"
    domains: tuple[str, ...]

    def applies(self, reading: Reading) -> BoolArray:
        """Return which tokens are of the domains."""
        wanted = [n for n, name in enumerate(reading.domain_names) if name in self.domains]
        return _is_in(reading.domains, wanted, len(reading.domain_names))

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `domain code`."""
        return f"domain {_listed(self.domains)}"


@dataclass(frozen=True)
class PositionRule:
    """The token is among the first of its segment."""

    kind: ClassVar[str] = "position"
    before: int

    def applies(self, reading: Reading) -> BoolArray:
        """Return which tokens stand before the position."""
        return reading.positions < self.before

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `first 4 tokens of a segment`."""
        return f"first {self.before} tokens of a segment"


RULES: dict[str, type] = {
    rule.kind: rule
    for rule in (
        TokenRule,
        PreviousRule,
        BigramRule,
        AfterRule,
        ShapeRule,
        DomainRule,
        PositionRule,
    )
}


def to_json(rule: Rule) -> dict[str, Any]:
    """Return a rule as plain data; `from_json` makes it executable again."""
    return {"kind": rule.kind, **asdict(rule)}  # type: ignore[call-overload]


def from_json(value: dict[str, Any]) -> Rule:
    """Return the rule that `to_json` wrote down; raise ValueError for an unknown kind."""
    if value.get("kind") not in RULES:
        raise ValueError(f"unknown kind of rule {value.get('kind')!r}; expected one of {[*RULES]}")
    fields = {name: _tuples(field) for name, field in value.items() if name != "kind"}
    return RULES[value["kind"]](**fields)


def quoted(texts: Sequence[str]) -> str:
    """Return `“def”, “class” and 3 more`, without spaces around words; equal texts stand once."""
    shown = [f"“{_visible(text)}”" for text in texts]
    return _listed(list(dict.fromkeys(shown)))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _visible(text: str) -> str:
    """Return a text on one line; blank tokens keep their spaces, since these are all they are."""
    shown = text.strip() or text
    return json.dumps(shown, ensure_ascii=False)[1:-1].replace('\\"', '"')


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _is_in(numbers: np.ndarray[Any, Any], wanted: Sequence[int], size: int) -> BoolArray:
    """Return which numbers, below `size` or NONE, are wanted; NONE never is."""
    table = np.zeros(size + 1, bool)
    table[list(wanted)] = True
    table[NONE] = False
    return table[numbers]
