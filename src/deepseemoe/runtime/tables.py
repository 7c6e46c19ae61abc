"""Parquet tables with a documented schema and a manifest of what made them."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from deepseemoe.runtime.files import REMAKE, growing


class Column(NamedTuple):
    """One column of a table; `meaning` and `unit` are kept in the file."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str


Columns = tuple[Column, ...]
"""A documented schema, written down beside the code that fills it."""


def arrow_schema(columns: Columns, manifest: Mapping[str, Any] | None = None) -> pa.Schema:
    """Return the arrow schema of `columns`, with each meaning and the manifest in its metadata."""
    fields = [
        pa.field(c.name, c.type, metadata={"unit": c.unit, "meaning": c.meaning}) for c in columns
    ]
    text = json.dumps(dict(manifest or {}), sort_keys=True)
    return pa.schema(fields, metadata={"deepseemoe": text})


def write_table(
    path: str | PathLike[str],
    columns: Columns,
    values: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    manifest: Mapping[str, Any],
) -> None:
    """Write rows (dicts), or a dict of equally long columns, as parquet, whole or not at all.

    Raises ValueError where a column is missing or unknown, before anything is written.
    """
    schema = arrow_schema(columns, manifest)
    if isinstance(values, Mapping):
        table = _table(path, schema, values)
    else:
        table = pa.Table.from_pylist(list(values), schema)
    with growing(path) as partial:
        pq.write_table(table, partial, compression="zstd")


class TableWriter:
    """Write a table part by part, for one that is too large to be held: whole or not at all.

        with TableWriter(path, READS, manifest) as table:
            for layer in layers:
                table.write(columns_of(layer))

    Each part is a row group, so a reader can take them one by one. `n_rows` counts what was
    written. The file appears when the block ends without an error.
    """

    def __init__(
        self, path: str | PathLike[str], columns: Columns, manifest: Mapping[str, Any]
    ) -> None:
        self._path, self._schema = path, arrow_schema(columns, manifest)
        self._open = ExitStack()
        self.n_rows = 0

    def __enter__(self) -> "TableWriter":
        partial = self._open.enter_context(growing(self._path))
        writer = pq.ParquetWriter(partial, self._schema, compression="zstd")
        self._writer = self._open.enter_context(writer)
        return self

    def __exit__(self, *raised: Any) -> None:
        self._open.__exit__(*raised)

    def write(self, values: Mapping[str, Any]) -> None:
        """Add equally long columns as a row group; nothing is added where they have no rows.

        Raises ValueError where a column is missing or unknown, or their lengths differ.
        """
        table = _table(self._path, self._schema, values)
        if table.num_rows:
            self._writer.write_table(table, row_group_size=table.num_rows)
        self.n_rows += table.num_rows


def _table(path: str | PathLike[str], schema: pa.Schema, values: Mapping[str, Any]) -> pa.Table:
    """Return columns as a table; raise ValueError where some are missing or unknown."""
    if set(values) != set(schema.names):
        odd = sorted(set(values) ^ set(schema.names))
        raise ValueError(f"{path}: columns {odd} are not both given and documented")
    return pa.table([pa.array(values[n], schema.field(n).type) for n in schema.names], schema)


@contextmanager
def whole_table(path: str | PathLike[str]) -> Iterator[None]:
    """Raise ValueError with the name of a table where reading it finds that it is damaged."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as error:  # an OSError where a page cannot be unpacked
        told = " ".join(str(error).split())
        raise ValueError(f"{path}: damaged, no whole parquet table ({told}); {REMAKE}") from None


def row_groups(path: str | PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the parts of a table one by one, as numpy columns."""
    with whole_table(path), pq.ParquetFile(path) as file:
        for place in range(file.num_row_groups):
            part = file.read_row_group(place)
            yield {n: part[n].to_numpy(zero_copy_only=False) for n in part.column_names}


def read_table(path: str | PathLike[str], columns: Sequence[str] | None = None) -> pa.Table:
    """Return a table, or some of its columns."""
    with whole_table(path):
        return pq.read_table(path, columns=list(columns) if columns else None)


def read_manifest(path: str | PathLike[str]) -> dict[str, Any]:
    """Return the manifest of a table; empty where another program wrote it."""
    with whole_table(path):
        metadata = pq.read_schema(path).metadata or {}
    return json.loads(metadata.get(b"deepseemoe", b"{}"))


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits that name plain data, for manifests."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
