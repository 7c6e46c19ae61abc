"""docs/queries.md: every query runs on a finished run, and its Python gives the rows of its SQL."""

import importlib.util
import math

import pytest
from runs import ROOT

SPEC = importlib.util.spec_from_file_location("queries", ROOT / "docs/queries.py")
QUERIES = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(QUERIES)
PAGE = QUERIES.PAGE.read_text(encoding="utf-8")
QUESTIONS = QUERIES.questions(PAGE)


def rows(table):
    """Return the rows of a table; a missing number is None in views and may be NaN in files."""
    return [
        [None if isinstance(v, float) and math.isnan(v) else v for v in row.values()]
        for row in table.to_pylist()
    ]


def test_the_page_asks_five_questions_and_answers_them():
    assert len(QUESTIONS) == PAGE.count("```sql") == 5
    for question in QUESTIONS:
        assert question.answer.count("\n") > 2, question.sql
        assert "\n…" not in question.answer


@pytest.mark.parametrize("number", range(len(QUESTIONS)))
def test_sql_and_python_give_the_same_rows(number, small_run):
    results = small_run / "results/small"
    in_sql = QUERIES.in_sql(QUESTIONS[number], results)
    in_python = QUERIES.in_python(QUESTIONS[number], results)
    assert in_python.column_names == in_sql.column_names
    assert len(in_sql) > 0, "a query without an answer compares nothing"
    assert rows(in_python) == rows(in_sql)


def test_answers_can_be_made_anew(small_run):
    page = QUERIES.renewed(PAGE, small_run / "results/small")
    assert QUERIES.renewed(page, small_run / "results/small") == page
    assert [q.sql for q in QUERIES.questions(page)] == [q.sql for q in QUESTIONS]
