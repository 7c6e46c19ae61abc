"""Texts on a terminal: what could move its cursor, hide or reorder letters is shown by its number.

Names of files, domains and labels come from the web, and stand in messages.
"""

import logging
import unicodedata

_KEPT = "\n\t"
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    """Return text whose control and direction characters are shown as their numbers."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"\\u{ord(one):04x}" if one not in _KEPT and unicodedata.category(one) in _HIDDEN else one
        for one in text
    )


class Printable(logging.Formatter):
    """A formatter whose lines are printable."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line, or lines where it has a traceback."""
        return printable(super().format(record))
