"""Adapter of rule train_model; the work is in deepseemoe.model.training."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import device, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Train the run's own model, or plant one."""
    from pathlib import Path

    from deepseemoe.config import ModelConfig
    from deepseemoe.model.make import make_model

    make_model(
        ModelConfig.model_validate(job.params.config),
        tokenizer_folder=Path(job.input.tokenizer),
        shards=[Path(path) for path in job.input.shards],
        folder=Path(job.output[0]),
        seed=job.params.seed,
        device=device(job),
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
