"""Rules of the state of the text at a token: inside what, in which line, seen before.

T tokens.
"""

from dataclasses import dataclass
from typing import ClassVar

from deepseemoe.labels.layout import DELIMITERS
from deepseemoe.labels.reading import BoolArray, Reading, Vocabulary
from deepseemoe.labels.rules.rule import is_in, numbers_of, quoted

_REPEATS = {
    "token": "token seen before in the segment",
    "word": "word seen before in the segment",
    "pair": "pair of tokens seen before in the segment",
    "double": "same token as the one before",
}


@dataclass(frozen=True)
class InsideRule:
    """The token stands inside brackets, quotes or code; see `Layout.inside` for the edges."""

    kind: ClassVar[str] = "inside"
    delimiters: str
    edges: str

    def applies(self, reading: Reading) -> BoolArray:
        """Return which tokens are inside."""
        return reading.layout.inside(self.delimiters, self.edges)

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `inside round brackets`; `detail` says whether the brackets count."""
        opening, closing = DELIMITERS[self.delimiters]
        more = {
            "inner": "",
            "outer": " or at them",
            "opening": f" or at the opening “{opening}”",
            "closing": f" or at the closing “{closing}”",
        }
        return f"inside {self.delimiters}{more[self.edges]}"


@dataclass(frozen=True)
class LineRule:
    """The line of the token begins with one of some words."""

    kind: ClassVar[str] = "line"
    words: tuple[str, ...]

    def applies(self, reading: Reading) -> BoolArray:
        """Return which tokens are of such lines."""
        names = reading.vocabulary.words[0]
        return is_in(reading.layout.line_words, numbers_of(self.words, names), len(names))

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `in a line that begins with “#”`."""
        return f"in a line that begins with {quoted(self.words)}"


@dataclass(frozen=True)
class RepeatedRule:
    """The token, its word or the pair that ends at it has stood in the segment."""

    kind: ClassVar[str] = "repeated"
    what: str

    def applies(self, reading: Reading) -> BoolArray:
        """Return which tokens were there before."""
        return reading.layout.repeated(self.what)

    def label(self, vocabulary: Vocabulary) -> str:
        """Return `token seen before in the segment`."""
        return _REPEATS[self.what]
