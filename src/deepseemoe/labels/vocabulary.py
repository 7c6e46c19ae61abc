"""The tokens of a vocabulary as text, and what follows from the text of a token alone.

V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseemoe.labels.shapes import SHAPES, shapes_of

IntArray = npt.NDArray[np.integer]
BoolArray = npt.NDArray[np.bool_]

NONE = -1
"""Stands where there is no token, word or domain."""

_CLOSING = "\"'”’)]}*_"
"""May follow the full stop of a sentence in the same token."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens as text, and what follows from the text alone."""

    texts: Sequence[str]
    """(V,) text of each token id"""

    @cached_property
    def shapes(self) -> BoolArray:
        """(V, number of SHAPES): which shapes each token has."""
        return np.array([shapes_of(text) for text in self.texts]).reshape(-1, len(SHAPES))

    @cached_property
    def plain(self) -> list[str]:
        """(V,): each text without case and without spaces around it."""
        return [plain(text) for text in self.texts]

    @cached_property
    def words(self) -> tuple[list[str], IntArray]:
        """The distinct words, and (V,) the word of each token: its text without spaces and case.

        A trigger is a word: “import”, “ import” and “Import” announce the same. Blank tokens are
        none.
        """
        stripped = self.plain
        words = sorted({word for word in stripped if word})
        index = {word: n for n, word in enumerate(words)}
        return words, np.array([index.get(word, NONE) for word in stripped])

    @cached_property
    def lengths(self) -> IntArray:
        """(V,): characters of each token without the spaces around it."""
        return self._each(lambda text: len(text.strip()), np.int64)

    @cached_property
    def breaks_line(self) -> BoolArray:
        """(V,): whether the next token stands on another line."""
        return self._each(lambda text: "\n" in text, bool)

    @cached_property
    def ends_sentence(self) -> BoolArray:
        """(V,): whether the next token begins a sentence."""
        return self._each(
            lambda text: text.strip().rstrip(_CLOSING).endswith((".", "!", "?")) or "\n\n" in text,
            bool,
        )

    @cached_property
    def goes_on(self) -> BoolArray:
        """(V,): whether the token begins with a letter or digit, so that it may go on a word."""
        return self._each(lambda text: text[:1].isalnum(), bool)

    @cached_property
    def stays_open(self) -> BoolArray:
        """(V,): whether the token ends with a letter or digit, so that a word may go on."""
        return self._each(lambda text: text[-1:].isalnum(), bool)

    def _each(self, value: Callable[[str], Any], dtype: type) -> npt.NDArray[Any]:
        return np.fromiter((value(text) for text in self.texts), dtype, len(self.texts))


def plain(text: str) -> str:
    """Return a text without case and without spaces around it."""
    return text.strip().casefold()
