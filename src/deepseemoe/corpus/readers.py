"""Documents of one file: JSON lines, parquet, or plain text.

One bad document never ends the reading: it comes out with its `problem` and is counted. A file that
cannot be read as a whole (damaged, empty, without the text column) is an error.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from deepseemoe.corpus.blocks import open_file, read_blocks, split_lines, whole
from deepseemoe.corpus.chat import Chat
from deepseemoe.corpus.documents import Document
from deepseemoe.corpus.listing import SourceFile

LANGUAGE_KEY = "language_id_whole_page_fasttext"
QUALITY_KEY = "fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train_prob"
"""DCLM's names of its scores."""

_NAME_KEYS = ("id", "url")
_PROBED = 1000
BOM = b"\xef\xbb\xbf"
_BATCH_ROWS = 1024


class Keys(NamedTuple):
    """Where a record holds what is read of it; `metadata.topic` reaches into a nested record."""

    text: str
    domain: str | None = None
    language: str | None = None
    """Language whose score is taken from LANGUAGE_KEY."""
    chat: Chat | None = None
    """Renders the messages that `text` holds then."""

    @property
    def asked(self) -> str:
        """The key of the text, as errors name it."""
        return f"{'chat_key' if self.chat else 'text_key'} {self.text!r}"


class Record(NamedTuple):
    """A row of a file before it is a document: its values, or the problem with them."""

    row: int
    values: Mapping[str, Any]
    problem: str | None = None


def read_documents(file: SourceFile, keys: Keys) -> Iterator[Document]:
    """Yield the documents of `file` in order, bad ones too; raise ValueError where it has none."""
    record = None
    for record in _records(file, keys):
        yield _document(record, file, keys)
    if record is None:
        raise ValueError(
            f"{file.shown}: the file holds no documents; fetch it again, or leave it out"
        )


def check_first_file(file: SourceFile, keys: Keys) -> None:
    """Raise ValueError where none of the first thousand documents of `file` has usable text."""
    problems: Counter[str] = Counter()
    found: set[str] = set()
    for record in islice(_records(file, keys, all_columns=True), _PROBED):
        problem = _document(record, file, keys).problem
        if not problem:
            return
        problems[problem] += 1
        found |= set(record.values)
    if problems and file.kind != "text":
        counts = ", ".join(f"{count} {problem}" for problem, count in problems.items())
        raise ValueError(
            f"{file.shown}: none of its first {problems.total()} documents has text at "
            f"{keys.asked} ({counts}); keys found: {', '.join(sorted(found)) or 'none'}"
        )


def mean_chars(file: SourceFile, keys: Keys) -> float:
    """Return the mean characters of the documents of `file` that have text; 0 where none has."""
    lengths = [len(one.text) for one in read_documents(file, keys) if not one.problem]
    return sum(lengths) / max(len(lengths), 1)


def _records(file: SourceFile, keys: Keys, *, all_columns: bool = False) -> Iterator[Record]:
    if file.kind == "parquet":
        return _parquet_records(file, keys, all_columns)
    if file.kind == "text":
        return _text_records(file, keys)
    return _json_records(file)


@contextmanager
def _of(file: SourceFile) -> Iterator[None]:
    """Name the file where a document of it is too large."""
    try:
        yield
    except ValueError as error:
        named = str(error)
        raise ValueError(named if file.shown in named else f"{file.shown}: {named}") from None


def _text_records(file: SourceFile, keys: Keys) -> Iterator[Record]:
    with _of(file):
        yield Record(0, {keys.text: whole(read_blocks(file)).removeprefix(BOM)})


def _json_records(file: SourceFile) -> Iterator[Record]:
    """Yield a record for each line that is not blank."""
    with _of(file):
        for row, line in enumerate(split_lines(read_blocks(file))):
            line = line.removeprefix(BOM) if row == 0 else line
            if line.strip():
                yield _parse(row, line)


def _parse(row: int, line: bytes) -> Record:
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return Record(row, {}, "bad_encoding")
    except (ValueError, RecursionError):  # too deep, or a number of too many digits, is broken too
        return Record(row, {}, "broken_json")
    return Record(row, values) if isinstance(values, dict) else Record(row, {}, "broken_json")


def _parquet_records(file: SourceFile, keys: Keys, all_columns: bool) -> Iterator[Record]:
    try:
        with open_file(file) as raw:
            table = pq.ParquetFile(raw)
            columns = _columns(table.schema_arrow.names, file, keys)
            first = 0
            for batch in table.iter_batches(_BATCH_ROWS, columns=None if all_columns else columns):
                values = {name: _values(batch[name]) for name in batch.schema.names}
                for row in range(len(batch)):
                    yield Record(first + row, {name: rows[row] for name, rows in values.items()})
                first += len(batch)
    except (pa.ArrowException, OSError) as error:
        text = str(error).splitlines()[0]
        raise ValueError(
            f"{file.shown}: cannot be read as parquet ({text}); fetch it again"
        ) from None


def _columns(present: list[str], file: SourceFile, keys: Keys) -> list[str]:
    """Return the columns that are read; raise ValueError where the text is not among them."""
    if not {keys.text, keys.text.split(".")[0]} & set(present):
        raise ValueError(
            f"{file.shown}: no column for {keys.asked}; columns found: {', '.join(present)}"
        )
    asked = [keys.text, keys.domain or keys.text, *_NAME_KEYS, LANGUAGE_KEY, QUALITY_KEY]
    wanted = {*asked, *(key.split(".")[0] for key in asked)}
    return [name for name in present if name in wanted]


def _values(column: pa.Array) -> list[Any]:
    """Return a column as Python values, strings as bytes: Arrow refuses a batch with bad UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    return column.to_pylist()


def _document(record: Record, file: SourceFile, keys: Keys) -> Document:
    values = record.values
    text, problem = ("", record.problem) if record.problem else _text_of(values, keys)
    names = (_label(values.get(key)) for key in _NAME_KEYS)
    return Document(
        text=text,
        name=next(filter(None, names), f"{file.name}:{record.row}"),
        file=file.name,
        row=record.row,
        domain=_label(_value_at(values, keys.domain)) if keys.domain else None,
        language_score=_score(_value_at(values, f"{LANGUAGE_KEY}.{keys.language}")),
        quality_score=_score(values.get(QUALITY_KEY)),
        problem=problem,
    )


def _text_of(values: Mapping[str, Any], keys: Keys) -> tuple[str, str | None]:
    """Return the text of a record and its problem, the messages of a chat as one text."""
    found = _value_at(values, keys.text)
    if keys.chat is None:
        return _text(found)
    rendered, problem = keys.chat.render(found)
    return ("", problem) if problem else _text(rendered)


def _value_at(values: Mapping[str, Any], key: str) -> Any:
    """Return the value at `key`, or at the path that its dots make; None where there is none."""
    if key in values:
        return values[key]
    for part in key.split("."):
        if not isinstance(values, Mapping):
            return None
        values = values.get(part)
    return values


def _text(value: Any) -> tuple[str, str | None]:
    """Return text and its problem; bytes come from parquet and from plain text files."""
    if not isinstance(value, (str, bytes)):
        return "", "no_text"
    try:
        # Encoding finds lone surrogates, which JSON's \ud800 makes and no tokenizer takes.
        text = value.decode("utf-8") if isinstance(value, bytes) else value
        text.encode("utf-8")
    except UnicodeError:
        return "", "bad_encoding"
    return (text, None) if text.strip() else ("", "empty")


def _label(value: Any) -> str | None:
    """Return a name or domain as text that can be stored; None where it is no text or number."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace") or None
    if isinstance(value, (str, int, float)):
        return str(value).encode("utf-8", "replace").decode("utf-8") or None
    return None


def _score(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else None
