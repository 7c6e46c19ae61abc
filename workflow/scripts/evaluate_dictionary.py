"""Adapter of rule evaluate_dictionary; the work is in deepseemoe.dictionary.evaluate."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import devices, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Measure a dictionary on the test split."""
    from pathlib import Path

    from deepseemoe.config import ModelConfig
    from deepseemoe.dictionary.evaluate import evaluate_dictionary
    from deepseemoe.model.loading import load_model

    folder = Path(job.input.model[0]) if job.input.model else None
    evaluate_dictionary(
        Path(job.input.weights).parent,
        model=load_model(
            ModelConfig.model_validate(job.params.model), folder, devices=devices(job)
        ),
        stores=[Path(path) for path in job.input.stores],
        tokens=[Path(path) for path in job.input.tokens],
        metrics=Path(job.output[0]),
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
