"""Adapter of rule write_summary; the work is in deepseemoe.report.page."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Write the page that tells what the run found."""
    from pathlib import Path

    from deepseemoe.config import load_run
    from deepseemoe.report.page import write_summary
    from deepseemoe.report.tables import RunTables

    run = load_run(job.params.run)
    summary = Path(job.output[0])
    write_summary(
        run.report,
        run=run,
        tables=RunTables.of(summary.parents[1], run),
        figures=summary.parent / "figures",
        summary=summary,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
