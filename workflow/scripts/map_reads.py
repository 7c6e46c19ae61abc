"""Adapter of rule map_reads; the work is in deepseemoe.experts.reads."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Map which features call which experts."""
    from pathlib import Path

    from deepseemoe.config import ExpertsConfig, ModelConfig
    from deepseemoe.experts.reads import map_reads
    from deepseemoe.model.loading import load_model

    folder = Path(job.input.model[0]) if job.input.model else None
    map_reads(
        ExpertsConfig.model_validate(job.params.config),
        model=load_model(
            ModelConfig.model_validate(job.params.model), folder, n_layers=job.params.n_layers
        ),
        dictionary=Path(job.input.weights).parent,
        feature_shards=[Path(path) for path in job.input.features],
        stores=[Path(path) for path in job.input.stores],
        reads=Path(job.output.reads),
        summary=Path(job.output.summary),
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
