"""What exports put in place of URLs and mail addresses in the text that they show.

Stands in until `labels.asking.redact` is there: then this module goes, and its one caller each in
neuronpedia.py and descriptions.py takes that one.
"""

import re

URL, MAIL = "⟨url⟩", "⟨mail⟩"
PATTERNS = (
    (re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"), MAIL),
    (re.compile(r"(?:[a-z][a-z0-9+.-]*://|www\.)[^\s<>\"'`\])}]+", re.IGNORECASE), URL),
)


def redact(
    tokens: list[str], values: list[float], what: tuple[str, ...] = ("urls", "mail")
) -> tuple[list[str], list[float]]:
    """Return tokens and values with each URL or address as one token, of its highest value.

    Of a token that holds one and other text, the other text is kept as a token of its own with the
    same value.
    """
    text = "".join(tokens)
    spans = sorted(_spans(text, what))
    if not spans:
        return tokens, values
    starts = [0]
    for token in tokens:
        starts.append(starts[-1] + len(token))
    kept, levels, place = [], [], 0
    for start, stop, name in [*spans, (len(text), len(text), "")]:
        for token, value, first in zip(tokens, values, starts, strict=False):
            piece = token[max(place - first, 0) : max(start - first, 0)]
            if piece:
                kept.append(piece)
                levels.append(value)
        touched = [
            value
            for value, first, last in zip(values, starts, starts[1:], strict=False)
            if first < stop and last > start
        ]
        if name:
            kept.append(name)
            levels.append(max(touched))
        place = stop
    return kept, levels


def _spans(text: str, what: tuple[str, ...]) -> list[tuple[int, int, str]]:
    """Return start, stop and name of what is replaced; spans do not overlap, the longer stays."""
    wanted = {"urls": URL, "mail": MAIL}
    names = {wanted[one] for one in what}
    found = [
        (*match.span(), name)
        for pattern, name in PATTERNS
        if name in names
        for match in pattern.finditer(text)
    ]
    found.sort(key=lambda span: (span[0] - span[1], span[0]))
    kept: list[tuple[int, int, str]] = []
    for span in found:
        if all(span[1] <= other[0] or span[0] >= other[1] for other in kept):
            kept.append(span)
    return kept
