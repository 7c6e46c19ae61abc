"""Adapter of rule compare_arms; the work is in deepseemoe.justify.compare."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Write the table and say what was found."""
    from pathlib import Path

    from deepseemoe.config import JustifyConfig
    from deepseemoe.justify.compare import compare_arms
    from deepseemoe.names import Window

    compare_arms(
        JustifyConfig.model_validate(job.params.config),
        layers=Window.parse(job.params.layers),
        evaluations=[Path(path).parent for path in job.input.sums],
        stability=[Path(path) for path in job.input.stability],
        select_stores=[Path(path) for path in job.input.select],
        table=Path(job.output.table),
        finding=Path(job.output.finding),
        run=job.wildcards.run,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
