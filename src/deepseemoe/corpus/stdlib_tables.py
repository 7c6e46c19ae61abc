"""Tables and reference pages that every Python carries: encodings, characters, names and topics.

Each function yields entries, short texts that belong together in their order.
"""

import html.entities
import http
import importlib.resources
import keyword
import locale
import mimetypes
import opcode
import re
import sys
import token
import unicodedata
from collections.abc import Iterator
from encodings.aliases import aliases
from pydoc_data.topics import topics

_ENCODED = re.compile(r"\s*(?:'.*'\s+#\s+)?0x([0-9A-Fa-f]{2,4})\b")
_NUMBERED = re.compile(r"-[0-9A-F]{4,6}$|^HANGUL SYLLABLE ")  # names made by rule, by the thousand


def reference() -> Iterator[str]:
    """Yield the paragraphs of the language reference behind `help()`."""
    for topic in sorted(topics):
        yield from (part for part in topics[topic].split("\n\n") if part.strip())


def encodings() -> Iterator[str]:
    """Yield the lines of the tables of character encodings, their upper halves.

    The lower ones are ASCII in nearly all of them.
    """
    folder = importlib.resources.files("encodings")
    for name in sorted(path.name for path in folder.iterdir() if path.name.endswith(".py")):
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            match = _ENCODED.match(line)
            if match and int(match[1], 16) >= 0x80:
                yield line.strip()


def unicode() -> Iterator[str]:
    """Yield code point and name of the characters, in their order."""
    for code_point in range(sys.maxunicode + 1):
        name = unicodedata.name(chr(code_point), "")
        if name and not _NUMBERED.search(name):
            yield f"U+{code_point:04X} {name}"


def tables() -> Iterator[str]:
    """Yield the rows of tables of names and numbers: entities, media types, properties."""
    for name, text in sorted(html.entities.html5.items()):
        yield f"&{name}\t{' '.join(f'{ord(c):04x}' for c in text)}\t{ascii(text)}"
    for ending, kind in sorted(mimetypes.MimeTypes().types_map[True].items()):
        yield f"{ending}\t{kind}"
    for status in http.HTTPStatus:
        yield f"{status.value}\t{status.phrase}\t{status.description}"
    for name, target in sorted(locale.locale_alias.items()):
        yield f"{name}\t{target}"
    for lcid, name in sorted(locale.windows_locale.items()):
        yield f"{lcid:#06x}\t{name}"
    for name, target in sorted(aliases.items()):
        yield f"{name}\t{target}"
    for number, name in sorted(token.tok_name.items()):
        yield f"{number}\t{name}"
    for name, number in sorted(opcode.opmap.items()):
        yield f"{name}\t{number}"
    yield from (f"{word}\tkeyword" for word in keyword.kwlist + keyword.softkwlist)
    yield from _properties()


def _properties() -> Iterator[str]:
    """Yield what is known of characters besides their names, as in UnicodeData.txt.

    Of those that stand for others, have another case, or count something.
    """
    for character in map(chr, range(sys.maxunicode + 1)):
        mapping = unicodedata.decomposition(character)
        number = unicodedata.numeric(character, None)
        cases = [f"{ord(c):04X}" for c in (character.upper()[0], character.lower()[0])]
        if mapping or number is not None or cases[0] != cases[1]:
            kind = f"{unicodedata.category(character)};{unicodedata.bidirectional(character)}"
            value = "" if number is None else f"{number:g}"
            yield f"{ord(character):04X};{kind};{mapping};{value};{cases[0]};{cases[1]}"
