"""The embedded corpus: real text of eight kinds that every Python installation carries.

It is there so that a run needs no download: small, free, the same for a Python version, and of
kinds that the experts of a small model can divide among themselves.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

from deepseemoe.corpus import stdlib_tables, stdlib_text
from deepseemoe.corpus.documents import Document

EMBEDDED_DOMAINS = (
    "code",
    "comments",
    "docstrings",
    "encodings",
    "messages",
    "reference",
    "tables",
    "unicode",
)
_DOCUMENT_CHARS = 1200
_MOST_CHARS = 1_400_000  # of a domain, so that none drowns the others
_CODE_EVERY = 3  # modules: a third of them has code enough, and unparsing is slow

_Piece = tuple[str, str]
"""Where a text comes from, and a document's worth of it."""


def documents() -> Iterator[Document]:
    """Yield the corpus, its domains mixed evenly; the same for the same Python version."""
    domains = {**_text_domains(), **_table_domains()}
    yield from mix(
        [list(_as_documents(name, thin(domains[name], _MOST_CHARS))) for name in EMBEDDED_DOMAINS]
    )


def mix(domains: Iterable[list[Document]]) -> list[Document]:
    """Return the documents of all domains in one order, in which each is spread evenly."""
    placed = [
        ((number + 0.5) / len(domain), index, document)
        for index, domain in enumerate(domains)
        for number, document in enumerate(domain)
    ]
    return [document for _, _, document in sorted(placed, key=lambda place: place[:2])]


def thin(pieces: list[_Piece], most_chars: int) -> list[_Piece]:
    """Return pieces of about `most_chars` characters in all, evenly spaced over `pieces`."""
    share = min(1.0, most_chars / sum(len(text) for _, text in pieces))
    return [
        piece
        for number, piece in enumerate(pieces)
        if int((number + 1) * share) > int(number * share)
    ]


def join(entries: Iterable[str], separator: str) -> Iterator[str]:
    """Yield texts of about a document's length, made of entries that follow one another."""
    part: list[str] = []
    n_chars = 0
    for entry in chain.from_iterable(map(_cut, entries)):
        if part and n_chars + len(entry) > _DOCUMENT_CHARS:
            yield separator.join(part)
            part, n_chars = [], 0
        part.append(entry)
        n_chars += len(entry)
    if part:
        yield separator.join(part)


def _cut(entry: str) -> Iterator[str]:
    """Yield an entry, in parts of whole lines where it is far too long for a document."""
    if len(entry) <= 2 * _DOCUMENT_CHARS:
        yield entry
    else:
        yield from join((line for line in entry.splitlines() if len(line) <= _DOCUMENT_CHARS), "\n")


def _text_domains() -> dict[str, list[_Piece]]:
    """Return the domains that are cut out of the standard library's source."""
    domains: dict[str, list[_Piece]] = {}
    folder = stdlib_text.library_folder()
    for number, path in enumerate(stdlib_text.module_files(folder)):
        module = stdlib_text.read_module(path, folder)
        entries = {
            "docstrings": stdlib_text.docstrings(module),
            "comments": stdlib_text.comments(module),
            "messages": stdlib_text.messages(module),
        }
        if number % _CODE_EVERY == 0:
            entries["code"] = stdlib_text.code(module)  # last: it changes the syntax tree
        for name, texts in entries.items():
            separator = "\n" if name == "messages" else "\n\n"
            domains.setdefault(name, []).extend(
                (module.name, text) for text in join(texts, separator)
            )
    return domains


def _table_domains() -> dict[str, list[_Piece]]:
    sources = {
        "encodings": (stdlib_tables.encodings, "\n"),
        "reference": (stdlib_tables.reference, "\n\n"),
        "tables": (stdlib_tables.tables, "\n"),
        "unicode": (stdlib_tables.unicode, "\n"),
    }
    return {
        name: [(name, text) for text in join(entries(), separator)]
        for name, (entries, separator) in sources.items()
    }


def _as_documents(domain: str, pieces: list[_Piece]) -> Iterator[Document]:
    for row, (source, text) in enumerate(pieces):
        yield Document(text, f"{domain}/{row:05d}", source, row, domain)
