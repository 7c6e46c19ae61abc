"""What is shown: sections of a title and a table, as text, CSV or JSON.

Text and CSV show every character of what came from the web (`report.contexts.visible`); JSON
escapes what is not ASCII, so it keeps every value and is safe to print too.
"""

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from deepseemoe.report.contexts import visible

MAX_CELL = 72
"""Characters of a cell of text; CSV and JSON cut nothing."""

NOTHING = "–"
SIGNED = ("lor", "rd", "beta", "causal", "full", "rep_lor", "w_map", "contrast", "rho")
"""Columns (or their first word) in which 0 means none, so that the sign is shown."""


class Section(NamedTuple):
    """A table under a title; `nothing` is said where it has no row."""

    title: str
    table: pa.Table
    nothing: str = "nothing found"
    is_whole: bool = False
    """Whether text stands there whole, however long its lines get"""


def as_text(sections: Sequence[Section]) -> str:
    """Return sections for people: columns in line, intervals beside their value."""
    return "\n\n".join("\n".join([s.title, *_body(s)]) if s.title else "\n".join(_body(s))
                       for s in sections)  # fmt: skip


def as_csv(sections: Sequence[Section]) -> str:
    """Return sections as CSV; where there are several, each opens with a line `# title`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for section in sections:
        if len(sections) > 1:
            text.write(f"# {visible(section.title)}\n")
        writer.writerow(map(visible, section.table.column_names))
        writer.writerows([_plain(v) for v in row.values()] for row in section.table.to_pylist())
    return text.getvalue().rstrip("\n")


def as_json(sections: Sequence[Section]) -> str:
    """Return a list of {title, rows}; NaN is null."""
    found = [{"title": s.title, "rows": _without_nan(s.table.to_pylist())} for s in sections]
    return json.dumps(found, indent=1, default=str, allow_nan=False)


def _body(section: Section) -> list[str]:
    rows = section.table.to_pylist()
    if not rows:
        return [f"  {section.nothing}"]
    limit = None if section.is_whole else MAX_CELL
    names = [name for name in section.table.column_names if not _is_end(name, section.table)]
    columns = [[visible(name), *(_cell(name, row, limit) for row in rows)] for name in names]
    aligned = [
        _aligned(column, is_text=not _is_number(section.table.field(name).type))
        for name, column in zip(names, columns, strict=True)
    ]
    return [f"  {'  '.join(cells)}".rstrip() for cells in zip(*aligned, strict=True)]


def _is_end(name: str, table: pa.Table) -> bool:
    """Return whether a column is an end of another's interval, which is shown with its value."""
    value = name.removesuffix("_lo").removesuffix("_hi")
    return value != name and {value, f"{value}_lo", f"{value}_hi"} <= set(table.column_names)


def _cell(name: str, row: dict[str, Any], limit: int | None) -> str:
    sign = "+" if name in SIGNED or name.split("_")[0] in SIGNED else ""
    shown = _shown(row[name], sign)
    ends = [_shown(row.get(f"{name}_{end}"), sign) for end in ("lo", "hi")]
    if f"{name}_lo" in row and f"{name}_hi" in row and NOTHING not in ends:
        shown += f" ({ends[0]} … {ends[1]})"
    return shown if limit is None or len(shown) <= limit else shown[: limit - 1] + "…"


def _shown(value: Any, sign: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, float):
        is_plain = value == 0 or 0.01 <= abs(value) < 1e6
        return format(value, f"{sign}.2f" if is_plain else f"{sign}.1e")
    return _plain(value) if isinstance(value, (str, list, dict)) else str(value)


def _plain(value: Any) -> Any:
    """Return a value for CSV: text with every character visible, a list with spaces between."""
    if isinstance(value, list):
        return visible(" ".join(str(one) for one in value))
    return visible(str(value)) if isinstance(value, (str, dict)) else value


def _aligned(cells: list[str], *, is_text: bool) -> list[str]:
    width = max(map(len, cells))
    return [cell.ljust(width) if is_text else cell.rjust(width) for cell in cells]


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
