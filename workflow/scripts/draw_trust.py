"""Adapter of rule draw_trust; the work is in deepseemoe.report.trust."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Draw the figure and write the page."""
    from pathlib import Path

    from deepseemoe.report.trust import write_trust

    write_trust(
        Path(job.input.planted),
        Path(job.input.nulls),
        Path(job.input.summary),
        figures=[Path(path) for path in (job.output.figure, *job.output.copies)],
        page=Path(job.output.page),
        run=job.wildcards.run,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
