"""Shapes of a token's text: what it looks like, whatever it means."""

from collections.abc import Callable

SHAPES: dict[str, Callable[[str], bool]] = {
    "digits": lambda text: text.strip().isdecimal(),
    "with a digit": lambda text: any(c.isdecimal() for c in text),
    "capitalised": lambda text: text.strip().isalpha() and text.strip()[0].isupper(),
    "all capitals": lambda text: len(text.strip()) > 1 and text.strip().isupper(),
    "punctuation": lambda text: bool(text.strip()) and not any(c.isalnum() for c in text),
    "an opening bracket": lambda text: text.strip()[-1:] in tuple("([{<"),
    "a closing bracket": lambda text: text.strip()[:1] in tuple(")]}>"),
    "line break": lambda text: "\n" in text,
    "spaces": lambda text: bool(text) and not text.strip(),
    "non-ASCII": lambda text: bool(text) and not text.isascii(),
    "letters after a space": lambda text: text[:1] == " " and text[1:].isalpha(),
    "letters without a space before": lambda text: text.isalpha(),
    "one character": lambda text: len(text.strip()) == 1,
}
"""Names as they stand in labels, and what they mean. One token may have several."""


def shapes_of(text: str) -> list[bool]:
    """Return which of SHAPES a text has."""
    return [has_shape(text) for has_shape in SHAPES.values()]
