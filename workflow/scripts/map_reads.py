"""Adapter of rule map_reads; the work is in deepseemoe.experts.reads."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Map which features call which experts."""
    from pathlib import Path

    from deepseemoe.config import ExpertsConfig
    from deepseemoe.experts.kernels import limit_threads
    from deepseemoe.experts.reads import map_reads

    limit_threads(job.threads)
    map_reads(
        ExpertsConfig.model_validate(job.params.config),
        dictionary=Path(job.input.weights).parent,
        feature_shards=[Path(path) for path in job.input.features],
        stores=[Path(path) for path in job.input.stores],
        effects=Path(job.input.effects),
        reads=Path(job.output.reads),
        agreement=Path(job.output.agreement),
        summary=Path(job.output.summary),
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
