"""docs/tables.md holds every table of the library, as the code writes it."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from deepseemoe.query.catalogue import ENTRIES, schemas
from deepseemoe.query.page import TABLES_FILE, tables_text
from deepseemoe.runtime.tables import Column

ROOT = Path(__file__).parents[3]


def test_the_page_matches_the_schemas():
    told = "run `deepseemoe schema` to renew it"
    assert (ROOT / TABLES_FILE).read_text(encoding="utf-8") == tables_text(), (
        f"{TABLES_FILE} is out of step with the schemas; {told}"
    )


@pytest.mark.parametrize("schema", schemas(), ids=lambda schema: schema.entry.view)
def test_every_column_says_what_it_means(schema):
    assert [column.name for column in schema.columns if not column.meaning.strip()] == []
    names = [column.name for column in schema.columns]
    assert len(names) == len(set(names))


def test_no_two_tables_share_a_view_or_a_place():
    for field in ("view", "path", "schema"):
        values = [getattr(entry, field) for entry in ENTRIES]
        assert len(values) == len(set(values)), field


def modules_that_write():
    """Return the modules that write tables, by the text of their source."""
    source = ROOT / "src"
    calls = re.compile(r"(?<![.\w])(write_table|TableWriter)\(")
    files = [f for f in source.rglob("*.py") if calls.search(f.read_text(encoding="utf-8"))]
    names = [".".join(f.relative_to(source).with_suffix("").parts) for f in files]
    return sorted(set(names) - {"deepseemoe.runtime.tables"})


@pytest.mark.parametrize("name", modules_that_write())
def test_every_table_that_code_writes_is_on_the_page(name):
    known = [schema.columns for schema in schemas()]
    held = vars(import_module(name)).values()
    in_dicts = [value for one in held if isinstance(one, dict) for value in one.values()]
    written = [value for value in [*held, *in_dicts] if is_schema(value)]
    assert written, f"{name} writes a table without a documented schema"
    assert [value[0] for value in written if value not in known] == []


def is_schema(value):
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], Column)
