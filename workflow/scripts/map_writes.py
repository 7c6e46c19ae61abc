"""Adapter of rule map_writes; the work is in deepseemoe.experts.writes."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import devices, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Map which experts write which features."""
    from pathlib import Path

    from deepseemoe.config import ExpertsConfig, ModelConfig
    from deepseemoe.experts.writes import map_writes
    from deepseemoe.model.loading import load_model

    folder = Path(job.input.model[0]) if job.input.model else None
    map_writes(
        ExpertsConfig.model_validate(job.params.config),
        model=load_model(
            ModelConfig.model_validate(job.params.model),
            folder,
            devices=devices(job),
            n_layers=job.params.n_layers,
        ),
        dictionary=Path(job.input.weights).parent,
        feature_shards=[Path(path) for path in job.input.features],
        tokens=[Path(path) for path in job.input.tokens],
        writes=Path(job.output.writes),
        shared=Path(job.output.shared),
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
