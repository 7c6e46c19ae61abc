"""Renew the answers in docs/queries.md from a finished run: python docs/queries.py results/tiny.

Every ```sql block is asked as `deepseemoe look RESULTS --sql` does, and the ```text block behind it
gets the answer. Every ```python block must leave the same rows in `answer`.
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from deepseemoe.query.look import ask
from deepseemoe.query.sections import as_text

PAGE = Path(__file__).with_suffix(".md")
_BLOCK = re.compile(
    r"```sql\n(?P<sql>.*?)```\n+```text\n(?P<answer>.*?)```\n+```python\n(?P<python>.*?)```", re.S
)


class Question(NamedTuple):
    """One question of the page: its SQL, its Python, and the answer that stands there."""

    sql: str
    python: str
    answer: str


def questions(text: str) -> list[Question]:
    """Return the questions of the page, in order."""
    return [Question(m["sql"], m["python"], m["answer"]) for m in _BLOCK.finditer(text)]


def in_sql(question: Question, results: Path) -> pa.Table:
    """Return the answer of a question in SQL."""
    return ask(results, question.sql)[0].table


def in_python(question: Question, results: Path) -> pa.Table:
    """Return what the Python of a question leaves in `answer`; the page names results/tiny."""
    code = question.python.replace("results/tiny", results.as_posix())
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102 - our own page
    answer = names["answer"]
    assert isinstance(answer, pa.Table)
    return answer


def renewed(text: str, results: Path) -> str:
    """Return the page with all answers made anew."""

    def answered(match: re.Match[str]) -> str:
        shown = as_text(ask(results, match["sql"]))
        start, end = (place - match.start() for place in match.span("answer"))
        return f"{match[0][:start]}{shown}\n{match[0][end:]}"

    return _BLOCK.sub(answered, text)


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), Path(sys.argv[1])), encoding="utf-8")
