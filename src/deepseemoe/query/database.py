"""The tables of a finished run as views of DuckDB, one view over all dictionaries and windows.

A table that stands once for each dictionary and window gets columns `dictionary` and `window` in
front. Files of other columns (an older map beside a newer one) are laid over one another by name.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from deepseemoe.names import Window
from deepseemoe.query.catalogue import EACH, ENTRIES, type_name


class Source(NamedTuple):
    """One file of a table, and the columns that its place adds."""

    path: Path
    added: dict[str, str]


@dataclass(frozen=True)
class Found:
    """A table of the run: its files, and what one row is where that is known."""

    view: str
    sources: tuple[Source, ...]
    meaning: str

    @property
    def n_rows(self) -> int:
        """Rows of all files together."""
        return sum(pq.read_metadata(source.path).num_rows for source in self.sources)

    @cached_property
    def fields(self) -> list[tuple[str, str, str, str]]:
        """Name, type, unit and meaning of each column, as its files tell them."""
        rows = {name: (name, "string", "", "from the file's place") for name in self.added}
        for source in self.sources:
            for field in pq.read_schema(source.path):
                told = field.metadata or {}
                texts = (told.get(key, b"").decode() for key in (b"unit", b"meaning"))
                rows.setdefault(field.name, (field.name, type_name(field.type), *texts))
        return list(rows.values())

    @property
    def added(self) -> tuple[str, ...]:
        """Names of the columns that its place adds."""
        return tuple(dict.fromkeys(name for source in self.sources for name in source.added))


class Run:
    """The tables of a run, and the connection that queries them."""

    def __init__(self, results: Path):
        """Find the tables below `results`; raise ValueError where there is none."""
        self.results = results
        self.tables = {table.view: table for table in _tables(results)}
        if not self.tables:
            raise ValueError(
                f"{results} holds no tables; name the folder of a finished run, as results/tiny"
            )
        self._connection = duckdb.connect()
        self._connection.execute("SET autoinstall_known_extensions = false")
        for table in self.tables.values():
            parts = " UNION ALL BY NAME ".join(map(_select, table.sources))
            try:
                self._connection.execute(f'CREATE VIEW "{table.view}" AS {parts}')
            except duckdb.Error as error:
                raise ValueError(_line(error)) from None

    def has(self, view: str, *columns: str) -> bool:
        """Return whether the run has a table with these columns."""
        if view not in self.tables:
            return False
        return set(columns) <= {field[0] for field in self.tables[view].fields}

    def require(self, view: str) -> None:
        """Raise ValueError where the run lacks a table."""
        if view not in self.tables:
            known = ", ".join(sorted(self.tables))
            raise ValueError(f"{self.results} has no table {view}; it has {known}")

    def query(self, sql: str, parameters: Sequence[object] = ()) -> pa.Table:
        """Return what one query of ours gives; `?` in it stand for `parameters`."""
        return self._connection.sql(sql, params=list(parameters)).to_arrow_table()

    def ask(self, sql: str) -> pa.Table:
        """Return what a person's query gives; raise ValueError in one line where it is wrong."""
        try:
            statements = self._connection.extract_statements(_readable(self._connection, sql))
            kinds = [statement.type for statement in statements]
            if kinds not in ([duckdb.StatementType.SELECT], [duckdb.StatementType.EXPLAIN]):
                told = ", ".join(kind.name for kind in kinds) or "nothing"
                raise ValueError(f"one SELECT is answered; found {told} (tables are read-only)")
            return self._connection.sql(statements[0].query).to_arrow_table()
        except duckdb.CatalogException as error:
            missing = re.search(r"Table with name (\S+) does not exist", str(error))
            if missing:
                self.require(missing[1])
            raise ValueError(_line(error)) from None
        except duckdb.Error as error:
            raise ValueError(_line(error)) from None


def _readable(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """Return SQL that DuckDB reads: `window` is a keyword of it, and a column of ours."""
    try:
        connection.extract_statements(sql)
    except duckdb.ParserException:
        quoted = re.sub(r"""('[^']*'|"[^"]*")|\bwindow\b""", _quoted, sql, flags=re.IGNORECASE)
        if quoted != sql:
            return quoted
    return sql


def _quoted(match: re.Match[str]) -> str:
    return match[1] or '"window"'


def _line(error: duckdb.Error) -> str:
    """Return an error of DuckDB without the picture of the place in the query."""
    return " ".join(str(error).split("LINE 1:")[0].split())


def _select(source: Source) -> str:
    """Return the SELECT of one file; NaN is null, as DuckDB sorts NaN above every number."""
    try:
        fields = pq.read_schema(source.path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{source.path} is no whole parquet table: {error}") from None
    numbers = [f'"{field.name}"' for field in fields if pa.types.is_floating(field.type)]
    # not isnan: DuckDB 2.0 takes it for false where a file's statistics name no null
    nulls = ", ".join(f"CASE WHEN isfinite({n}) THEN {n} END AS {n}" for n in numbers)
    every = f"* REPLACE ({nulls})" if numbers else "*"
    constants = "".join(f'{_text(value)} AS "{name}", ' for name, value in source.added.items())
    return f"SELECT {constants}{every} FROM read_parquet({_text(str(source.path))})"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _tables(results: Path) -> Iterator[Found]:
    """Yield the tables below a folder, those of the catalogue first."""
    if any(sign in str(results) for sign in "*?["):
        raise ValueError(f"{results}: DuckDB reads *, ? and [ as patterns; rename the folder")
    rest = {path.relative_to(results): path for path in sorted(_files(results))}
    for entry in ENTRIES:
        matches = {p: m for p in rest if (m := _pattern(entry.path).fullmatch(p.as_posix()))}
        if matches:
            sources = (Source(rest.pop(p), m.groupdict()) for p, m in matches.items())
            yield Found(entry.view, tuple(sources), entry.meaning)
    yield from _unnamed(rest)


def _files(results: Path) -> Iterator[Path]:
    """Yield the parquet files of all stages; stores, which hold many files, are passed by."""
    for folder, below, files in os.walk(results):
        below[:] = [name for name in below if not name.endswith(".zarr")]
        if Path(folder) != results:
            yield from (Path(folder, name) for name in files if name.endswith(".parquet"))


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path)))


def _unnamed(rest: dict[Path, Path]) -> Iterator[Found]:
    """Yield tables that the catalogue lacks: called by file, and by stage where that is taken."""
    groups: dict[tuple[str, str], list[Source]] = {}
    for place, path in rest.items():
        groups.setdefault((place.parts[0], place.stem), []).append(Source(path, _added(place)))
    taken = {entry.view for entry in ENTRIES}
    stems = [stem for _, stem in groups]
    for (stage, stem), sources in groups.items():
        is_free = stem not in taken and stems.count(stem) == 1
        name = stem if is_free else f"{stage}_{stem}"
        yield Found(name, tuple(sources), "")


def _added(place: Path) -> dict[str, str]:
    """Return what the folders between stage and file say."""
    folders = place.parts[1:-1]
    if len(folders) == 2 and _is_window(folders[1]):
        return dict(zip(re.findall(r"\w+", EACH), folders, strict=True))
    return {"folder": "/".join(folders)} if folders else {}


def _is_window(text: str) -> bool:
    try:
        Window.parse(text)
    except ValueError:
        return False
    return True
