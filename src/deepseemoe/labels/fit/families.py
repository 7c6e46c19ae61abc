"""All families of rules over one text.

T tokens, U types.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from deepseemoe.labels.fit.masks import Looks, Ranges, Ready
from deepseemoe.labels.fit.properties import Properties
from deepseemoe.labels.fit.sets import Sets
from deepseemoe.labels.fit.task import Family
from deepseemoe.labels.fit.triggers import SINCE, After, Since, candidates
from deepseemoe.labels.layout import DELIMITERS, REPEATS
from deepseemoe.labels.reading import NONE, Reading
from deepseemoe.labels.rules import (
    BigramRule,
    DomainRule,
    EveryRule,
    InsideRule,
    LengthRule,
    LineRule,
    PositionRule,
    PreviousRule,
    RepeatedRule,
    Rule,
    TokenRule,
    TrigramRule,
    WordRule,
)
from deepseemoe.labels.rules.places import places_in

_LONG = np.array([80, 96, 112, 128, 160, 192, 256, 320, 384, 512, 768, 1024, 1536, 2048, 4096])
EDGES = {
    "segment": np.concatenate([np.arange(65), _LONG, [1 << 40]]),
    "line": np.array([0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64, 1 << 40]),
    "sentence": np.array([0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64, 1 << 40]),
    "word": np.array([0, 1, 2, 3, 4, 1 << 40]),
}
"""Places between which ranges are tried."""

LENGTHS = np.concatenate([np.arange(21), [1 << 40]])
STEPS = (2, 3, 4, 5, 8, 10)


def families_of(reading: Reading) -> list[Family]:
    """Return all families over a text, the plainest first."""
    words, numbers = candidates(reading)
    triggers: list[Family] = []
    if len(words):
        triggers = [After(reading, words, numbers)]
        triggers += [Since(reading, words, numbers, unit) for unit in SINCE]
    return [
        *_token_sets(reading),
        *_names(reading),
        *_looks(reading),
        *_ranges(reading),
        *_states(reading),
        *triggers,
    ]


def serves_second(family: Family) -> bool:
    """Return whether a family is tried within a base: pairs and threes hardly add to one."""
    return getattr(family, "kind", "") not in ("bigram", "trigram")


def _token_sets(reading: Reading) -> Iterator[Family]:
    """Yield sets of tokens and of the few tokens that end here."""
    tokens = reading.token_ids.astype(np.int64)
    yield Sets(reading, tokens, "token", TokenRule)
    for distance in (1, 2, 3):
        before = reading.before(distance, tokens)
        yield Sets(reading, before, "previous", _previous(distance))
    for distance in (1, 2):
        yield Sets(reading, reading.pairs(distance), "bigram", _pairs(distance))
    yield Sets(reading, reading.trigrams, "trigram", _threes)


def _names(reading: Reading) -> Iterator[Family]:
    """Yield sets of what has a name: words, first words of lines, domains."""
    words, so_far = reading.layout.words_so_far
    yield Sets(reading, so_far, "word", lambda found: WordRule(_named(words, found)))
    names, opening = reading.vocabulary.words[0], reading.layout.line_words
    yield Sets(reading, opening, "line", lambda found: LineRule(_named(names, found)))
    if len(np.unique(reading.domains[reading.domains != NONE])) > 1:
        domains = reading.domain_names
        yield Sets(
            reading, reading.domains, "domain", lambda found: DomainRule(_named(domains, found))
        )


def _looks(reading: Reading) -> Iterator[Family]:
    """Yield shapes and affixes of the token and of the one before, and lengths."""
    properties = Properties.of(reading)
    yield from (Looks(reading, properties, distance) for distance in (0, 1))
    yield Ranges(reading, reading.vocabulary.lengths[reading.token_ids], LENGTHS, "length", _length)


def _ranges(reading: Reading) -> Iterator[Family]:
    for unit, edges in EDGES.items():
        places = places_in(reading, unit)
        top = int(np.searchsorted(edges, places.max(initial=0), side="right"))
        is_new = unit == "segment" or (places != reading.positions)[reading.is_valid].any()
        if top > 1 and is_new:
            used = np.append(edges[:top], edges[-1])
            yield Ranges(reading, places, used, "position", _position(used, unit))


def _states(reading: Reading) -> Iterator[Family]:
    """Yield what stands inside delimiters, repetition, and every so many tokens."""
    ways = ("inner", "outer", "opening", "closing")
    for rules in (
        [InsideRule(name, way) for name in DELIMITERS for way in ways],
        [RepeatedRule(what) for what in REPEATS],
        [EveryRule(step, rest) for step in STEPS for rest in range(step)],
    ):
        covering: list[Rule] = [rule for rule in rules if rule.applies(reading).any()]
        if covering:
            yield Ready(reading, covering)


def _previous(distance: int) -> Callable[[tuple[int, ...]], Rule]:
    return lambda found: PreviousRule(found, distance)


def _pairs(distance: int) -> Callable[[tuple[int, ...]], Rule]:
    return lambda found: BigramRule(tuple((key >> 32, key & 0xFFFFFFFF) for key in found), distance)


def _threes(found: tuple[int, ...]) -> Rule:
    low = (1 << 21) - 1
    return TrigramRule(tuple((key >> 42, key >> 21 & low, key & low) for key in found))


def _named(names: Sequence[str], found: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(names[n] for n in found)


def _length(first: int, last: int) -> Rule:
    return LengthRule(
        int(LENGTHS[first]), None if last >= len(LENGTHS) - 1 else int(LENGTHS[last]) - 1
    )


def _position(edges: np.ndarray, unit: str) -> Callable[[int, int], Rule]:
    end = len(edges) - 1
    return lambda first, last: PositionRule(
        None if last == end else int(edges[last]), int(edges[first]), unit
    )
