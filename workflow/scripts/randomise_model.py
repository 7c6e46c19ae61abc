"""Adapter of rule randomise_model; the work is in deepseemoe.justify.random_model."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Write the run's model with random weights."""
    from pathlib import Path

    from deepseemoe.config import ModelConfig
    from deepseemoe.justify.random_model import write_random_model

    write_random_model(
        ModelConfig.model_validate(job.params.model),
        Path(job.input.model[0]) if job.input.model else None,
        random=Path(job.output[0]),
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
