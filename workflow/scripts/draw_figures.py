"""Adapter of rule draw_figures; the work is in deepseemoe.report.figures."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Draw the figures of the run."""
    from pathlib import Path

    from deepseemoe.config import load_run
    from deepseemoe.report.figures import draw_figures
    from deepseemoe.report.tables import RunTables

    run = load_run(job.params.run)
    folder = Path(job.output[0]).parent
    draw_figures(run.report, run=run, tables=RunTables.of(folder.parents[1], run), folder=folder)


if __name__ == "__main__":
    run_stage(main, snakemake)
