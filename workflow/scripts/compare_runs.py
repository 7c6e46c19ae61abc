"""Adapter of rule compare_runs; the work is in deepseemoe.compare.compare."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Write the tables of the comparison."""
    from pathlib import Path

    from deepseemoe.compare.compare import compare_runs
    from deepseemoe.config.compare import CompareConfig

    folder = Path(job.output.load).parent
    compare_runs(
        CompareConfig.model_validate(job.params.config),
        results=folder.parents[1],
        folder=folder,
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
