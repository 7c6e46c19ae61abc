"""Looking things up in the tables of a finished run, and asking them in SQL."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from deepseemoe.names import ExpertId, FeatureId
from deepseemoe.query.database import Found, Run
from deepseemoe.query.experts import expert_sections
from deepseemoe.query.features import feature_sections
from deepseemoe.query.pairs import places
from deepseemoe.query.sections import Section
from deepseemoe.query.words import word_sections


def look(
    results: Path, what: str, *, dictionary: str | None = None, n_rows: int = 10
) -> list[Section]:
    """Return sections about `what`: an expert (L01.E3), a feature (L00-L01.F00012) or a word.

    Raises ValueError where `results` is no finished run or holds no such thing.
    """
    run = Run(results)
    if not what.strip():
        raise ValueError("nothing to look for; name an expert, a feature or a word")
    options = {"dictionary": dictionary, "n_rows": n_rows}
    if _is(ExpertId, what):
        return expert_sections(run, ExpertId.parse(what), **options)
    if _is(FeatureId, what):
        return feature_sections(run, FeatureId.parse(what), **options)
    if dictionary is not None:
        places(run, "features", dictionary)
    return word_sections(run, what, **options)


def ask(results: Path, sql: str) -> list[Section]:
    """Return what one SELECT over the run's tables gives; raise ValueError where it is wrong."""
    return [Section("", Run(results).ask(sql), "no row")]


def list_tables(results: Path, view: str | None = None) -> list[Section]:
    """Return the tables of a run with their columns, or those of one table."""
    run = Run(results)
    if view is not None:
        run.require(view)
    chosen = [run.tables[view]] if view else list(run.tables.values())
    return [_columns(table) for table in chosen]


def _columns(table: Found) -> Section:
    told = f": {table.meaning}" if table.meaning else ""
    title = f"{table.view} ({table.n_rows} rows in {len(table.sources)} files){told}"
    fields = _as_table(("column", "type", "unit", "meaning"), table.fields)
    return Section(title, fields, is_whole=True)


def _as_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table({n: pa.array(c, pa.string()) for n, c in zip(names, columns, strict=True)})


def _is(kind: type[ExpertId] | type[FeatureId], what: str) -> bool:
    try:
        kind.parse(what)
    except ValueError:
        return False
    return True
