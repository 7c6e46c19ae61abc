"""Adapter of rule draw_justification; the work is in deepseemoe.report.justification."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Draw the figure and write the page."""
    from pathlib import Path

    from deepseemoe.report.justification import write_justification

    write_justification(
        Path(job.input.table),
        Path(job.input.finding),
        figures=[Path(path) for path in (job.output.figure, *job.output.copies)],
        page=Path(job.output.page),
        run=job.wildcards.run,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
