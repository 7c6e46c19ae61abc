"""Documents as they travel through the stage, and the table of all that were read."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deepseemoe.runtime.files import growing
from deepseemoe.runtime.tables import Column, Columns, arrow_schema, read_table

UNLABELLED = "unlabelled"
"""Stands for the domain of documents without one, where every document needs a domain."""

REASONS = {
    "kept": "packed, whole or up to the end of its split",
    "broken_json": "the line is not a JSON object",
    "bad_encoding": "the line or its text is not valid UTF-8",
    "no_text": "no text at the text key, or not a string",
    "bad_chat": "no messages with role and content at the chat key, or the template refused them",
    "control_token": "a message spells a control token of the tokenizer",
    "empty": "the text is empty or white space",
    "domain": "not one of the domains asked for",
    "too_short": "fewer characters than min_chars",
    "too_long": "more characters than max_chars",
    "language": "language score missing or too low",
    "quality": "quality score missing or too low",
    "duplicate": "a document with the same text came before",
    "split_full": "its split was already full",
}
"""Why a document is where it is. Where several hold, the first in this order is told."""

_MEANT = "; ".join(f"{reason}: {meaning}" for reason, meaning in REASONS.items())

DOCUMENT_COLUMNS: Columns = (
    Column("doc_id", pa.uint32(), "", "number among the kept documents; null where dropped"),
    Column("name", pa.string(), "", "id or url of the document, else file and row"),
    Column("file", pa.string(), "", "file it came from, below the folder that holds all files"),
    Column("row", pa.int64(), "", "line or row in the file, from 0"),
    Column("domain", pa.string(), "", "label of the document; null where it has none"),
    Column("n_chars", pa.int64(), "characters", "length of the text"),
    Column("n_tokens", pa.int64(), "tokens", "tokens packed, its opening token among them"),
    Column("text_hash", pa.string(), "", "BLAKE2b-128 of the UTF-8 text; null without text"),
    Column("split", pa.string(), "", "train, select or test; null where dropped"),
    Column("reason", pa.string(), "", _MEANT),
)

_GROUP_ROWS = 65_536  # rows of a parquet row group, and all that is held in memory


class Document(NamedTuple):
    """One document of a source; `problem` says why it has no usable text."""

    text: str
    name: str
    file: str
    row: int
    domain: str | None = None
    language_score: float | None = None
    quality_score: float | None = None
    mean_chars: float | None = None
    """Mean length of the documents of its file, where `max_chars: mean` asks for it."""
    problem: str | None = None


class Domains(NamedTuple):
    """The domains of a corpus, and the index of each document's domain by doc_id."""

    names: tuple[str, ...]
    domain_of_doc: np.ndarray


class DocumentTable:
    """Rows of `documents.parquet` on their way to disk, a row group at a time."""

    def __init__(self, writer: pq.ParquetWriter):
        self._writer = writer
        self._rows: list[Mapping[str, Any]] = []

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row: a value for each of DOCUMENT_COLUMNS."""
        self._rows.append(row)
        if len(self._rows) >= _GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the rows held so far as one row group."""
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._writer.schema))
            self._rows.clear()


@contextmanager
def growing_table(path: Path, manifest: Mapping[str, Any]) -> Iterator[DocumentTable]:
    """Yield a table to append to; it becomes `path` where the block succeeds.

    `runtime.tables.write_table` for more rows than fit in memory.
    """
    schema = arrow_schema(DOCUMENT_COLUMNS, manifest)
    with growing(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        table = DocumentTable(writer)
        yield table
        table.flush()


def domains_of(documents: Path) -> Domains:
    """Return the sorted names of the kept documents' domains, and their index by doc_id.

    Documents without a label are in the domain `unlabelled`.
    """
    table = read_table(documents, ["doc_id", "domain"])
    kept = table.filter(pc.is_valid(table["doc_id"])).sort_by("doc_id")
    if not np.array_equal(kept["doc_id"].to_numpy(), np.arange(len(kept))):
        raise ValueError(f"{documents}: doc_id does not run from 0 to {len(kept) - 1}; pack again")
    labels = [label or UNLABELLED for label in kept["domain"].to_pylist()]
    names = tuple(sorted(set(labels)))
    return Domains(names, _indices(labels, names))


def _indices(labels: Iterable[str], names: tuple[str, ...]) -> np.ndarray:
    index = {name: number for number, name in enumerate(names)}
    return np.fromiter((index[label] for label in labels), dtype=np.int64)
