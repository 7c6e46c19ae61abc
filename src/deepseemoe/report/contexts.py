"""Contexts of a feature as the page shows them: tokens with levels of activation, all visible.

Tokens come from the web. Whatever could hide or reorder text, control and direction characters, is
shown by its number; markup is left to the template, which escapes all of it.
"""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

N_LEVELS = 9
"""Shades of activation; level 0 has none."""

_SIGNS = {"\n": "⏎", "\r": "␍", "\t": "⇥"}


class Span(NamedTuple):
    """One token: its visible text, its level of activation from 0 to N_LEVELS, the activation."""

    text: str
    level: int
    activation: float
    is_peak: bool


class Context(NamedTuple):
    """A passage in which a feature fires; `activation` is at its peak, raw units of z."""

    domain: str | None
    activation: float
    spans: tuple[Span, ...]


def visible(text: str) -> str:
    """Return text in which every character shows: a tab as ⇥, a direction mark as its number."""
    return "".join(map(_visible, text))


def spans(
    tokens: Sequence[str], activations: Sequence[float], peak: int, highest: float
) -> tuple[Span, ...]:
    """Return a context's tokens; `highest` is the activation that gets the strongest shade."""
    return tuple(
        Span(visible(token), _level(float(value), highest), float(value), place == peak)
        for place, (token, value) in enumerate(zip(tokens, activations, strict=True))
    )


def _level(value: float, highest: float) -> int:
    """Return 0 for silence, else 1 to N_LEVELS in equal steps of activation."""
    if value <= 0 or highest <= 0:
        return 0
    return min(max(round(N_LEVELS * value / highest), 1), N_LEVELS)


def _visible(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return f"\\u{ord(character):04x}"
    return character
