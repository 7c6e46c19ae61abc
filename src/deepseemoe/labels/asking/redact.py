"""Cut addresses out of texts before they are sent: URLs and mail addresses.

Addresses are looked for in the joined text, so tokens may cut them anywhere. A context may begin or
end within one: what it begins with up to the first white space is taken for the rest of an address
where it has a sign of one, as `/` or `@`, which now and then costs a piece of code.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

Kind = Literal["urls", "mail"]

MARKS: dict[str, str] = {"urls": "⟨url⟩", "mail": "⟨mail⟩"}

_END = r"[^\s<>\"`{}|\\^«»“”⟨⟩]"
_HOST = r"(?:[^\W_](?:[\w-]*[^\W_])?\.)+"
_PLAIN = r"(?:(?:com?|org|edu|gov|ac)\.[a-z]{2}|com|org|net|edu|gov)(?![\w(@-]|\.[\w*])"
_ANY = r"(?:[a-z]{2}|com|org|net|edu|gov|mil|info|biz|dev|app|online|site|shop|xyz)"

URL = re.compile(
    rf"""[a-z][a-z0-9+.-]*:/(?:/{_END}*|$)          # with a scheme, or cut within it
      | (?<![\w.])www\d?\.{_END}*
      | (?<![\w@-]){_HOST}{_ANY}(?::\d+)?[/?#]{_END}*  # a host with a path
      | (?<![\w@-]){_HOST}{_PLAIN}                  # a host alone, of the most usual endings
    """,
    re.IGNORECASE | re.VERBOSE,
)
MAIL = re.compile(
    r"""(?:mailto:)?[\w.!\#$%&'*+/=?~-]+@(?:[\w-]+(?:\.[\w-]+)+|[\w.-]*$)  # whole, or cut after @
      | ^@[\w-]+(?:\.[\w-]+)+                                           # cut before it
    """,
    re.IGNORECASE | re.VERBOSE,
)
REST = re.compile(r"[\w.~:/?#&=%+@,;!$*'-]+(?=[).\]]*(?:[\s<>\"`]|$))")
"""What a context begins with, in letters that addresses have"""

REST_OF_MAIL = re.compile(r"\w@|@[\w.-]*\.\w")
REST_OF_URL = re.compile(
    r"[/?=&#%]|\w\.(?:com?\.[a-z]|com|org|net|edu|gov|ac\.[a-z]|html?|php|aspx?)", re.I
)


class _Span(NamedTuple):
    first: int
    last: int
    kind: Kind


def redact(
    tokens: Sequence[str], values: Sequence[float], what: Sequence[Kind]
) -> tuple[list[str], list[float]]:
    """Return tokens and values with each address as one token, ⟨url⟩ or ⟨mail⟩.

    It has the highest value of what it replaces; what else stands in a token that is part of an
    address stays in it.
    """
    text = "".join(tokens)
    spans = list(_addresses(text, what))
    if not spans:
        return list(tokens), list(values)
    ends = [0]
    for token in tokens:
        ends.append(ends[-1] + len(token))
    said: list[str] = []
    worth: list[float] = []
    place = n = 0
    while n < len(tokens):
        while place < len(spans) and spans[place].last <= ends[n]:
            place += 1
        if place == len(spans) or spans[place].first >= ends[n + 1]:
            said.append(tokens[n])
            worth.append(values[n])
            n += 1
            continue
        first, at, parts = n, ends[n], []
        while place < len(spans) and spans[place].first < ends[n + 1]:
            span = spans[place]
            parts += [text[at : span.first], MARKS[span.kind]]
            at = span.last
            while ends[n + 1] < at:
                n += 1
            place += 1
        said.append("".join([*parts, text[at : ends[n + 1]]]))
        worth.append(max(values[first : n + 1]))
        n += 1
    return said, worth


def _addresses(text: str, what: Sequence[Kind]) -> Iterator[_Span]:
    """Yield the addresses of a text in order; none overlap."""
    found = [
        _Span(*match.span(), kind)
        for kind, pattern in (("urls", URL), ("mail", MAIL))
        if kind in what
        for match in pattern.finditer(text)
    ]
    start = REST.match(text)
    if start and "mail" in what and REST_OF_MAIL.search(start[0]):
        found.append(_Span(*start.span(), "mail"))
    elif start and "urls" in what and REST_OF_URL.search(start[0]):
        found.append(_Span(*start.span(), "urls"))
    last = 0
    for span in sorted(found, key=lambda one: (one.first, -one.last)):
        if span.last <= last or span.first == span.last:
            continue
        if span.first < last:  # one that begins within another: both are cut out
            span = span._replace(first=last)
        last = span.last
        yield span
