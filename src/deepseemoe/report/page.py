"""The summary page: one file that shows what a run found and how far to believe it.

It needs no network and runs no script: style and figures are inside, and every text that came from
the web, a model or a label is escaped by the template and made visible by `contexts.visible`. It
stays whole inside Snakemake's report.
"""

import base64
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from deepseemoe.config import ReportConfig
from deepseemoe.report.captions import CAPTIONS
from deepseemoe.report.content import Content, gather
from deepseemoe.report.contexts import visible
from deepseemoe.report.names import figure_groups
from deepseemoe.report.tables import MAX_Q, RunTables
from deepseemoe.runtime.files import write_text
from deepseemoe.runtime.provenance import PACKAGES
from deepseemoe.runtime.tables import digest

if TYPE_CHECKING:
    from deepseemoe.config import RunConfig


def write_summary(
    config: ReportConfig, *, run: "RunConfig", tables: RunTables, figures: Path, summary: Path
) -> None:
    """Write the page of a run to `summary`, with the figures of the folder `figures` inside.

    Raises ValueError where a table lacks a column, and FileNotFoundError where one is missing.
    """
    content = gather(config, run=run, tables=tables)
    write_text(summary, render(run, content, inlined(run, figures)))


def render(run: "RunConfig", content: Content, figures: list[dict[str, Any]]) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("deepseemoe.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": visible, "percent": percent, "decimal": decimal, "count": count, "q": q_value,
    }  # fmt: skip
    return environment.get_template("summary.html").render(
        run=run,
        content=content,
        figures=figures,
        max_q=MAX_Q,
        digest=digest(run.model_dump(mode="json")),
        versions={name: version(name) for name in PACKAGES},
    )


def inlined(run: "RunConfig", folder: Path) -> list[dict[str, Any]]:
    """Return the figures of a run by kind, each as a data address that needs no other file."""
    return [
        {
            "name": group.name,
            "category": group.category,
            "caption": CAPTIONS[group.name],
            "images": [(stem, _data_address(folder / f"{stem}.svg")) for stem in group.stems],
        }
        for group in figure_groups(run)
    ]


def _data_address(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()


def percent(share: float, digits: int = 0) -> str:
    """Return 0.914 as `91%`, and `–` for what was not measured."""
    return "–" if share != share else f"{100 * share:.{digits}f}%"


def decimal(value: float, digits: int = 2) -> str:
    """Return a number with some digits after the point, and `–` for what was not measured."""
    return "–" if value != value else f"{value:.{digits}f}"


def count(value: int) -> str:
    """Return 262144 as `262,144`."""
    return f"{value:,}"


def q_value(q: float) -> str:
    """Return `q = 0.012`, or `q < 0.0001`."""
    return f"q = {q:.2g}" if q >= 1e-4 else "q < 0.0001"
