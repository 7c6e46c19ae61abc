"""Adapter of rule predict_routing; the work is in deepseemoe.prediction.predict."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import device, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Score the predictors of the routers that a dictionary's features may call."""
    from pathlib import Path

    from deepseemoe.config import PredictionConfig
    from deepseemoe.prediction.predict import predict_routing

    predict_routing(
        PredictionConfig.model_validate(job.params.config),
        dictionary=Path(job.input.weights).parent,
        feature_shards=[Path(path) for path in job.input.features],
        stores=[Path(path) for path in job.input.stores],
        random_stores=[Path(path) for path in job.input.random_stores],
        scores=Path(job.output[0]),
        device=device(job),
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
