"""Adapter of rule draw_comparison; the work is in deepseemoe.report.comparison."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Draw the figure and write the page."""
    from pathlib import Path

    from deepseemoe.report.comparison import write_comparison

    write_comparison(
        Path(job.input.tables[0]).parent,
        figures=[Path(path) for path in (job.output.figure, *job.output.copies)],
        page=Path(job.output.page),
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
