"""Adapter of rule compare_centroids; the work is in deepseemoe.routing.compare_centroids."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import devices, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Hold the rows of routers against the inputs of their experts."""
    from pathlib import Path

    from deepseemoe.config import ModelConfig, RoutingConfig
    from deepseemoe.model.loading import load_model
    from deepseemoe.routing.compare_centroids import compare_centroids

    folder = Path(job.input.model[0]) if job.input.model else None
    compare_centroids(
        RoutingConfig.model_validate(job.params.config),
        model=load_model(
            ModelConfig.model_validate(job.params.model),
            folder,
            devices=devices(job),
            n_layers=job.params.n_layers,
            head=False,
        ),
        tokens=[Path(path) for path in job.input.tokens],
        experts=Path(job.output.centroids),
        layers=Path(job.output.centroids_layers),
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
