"""Adapter of rule collect_examples; the work is in deepseemoe.features.examples."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Collect densities, neighbours and example contexts."""
    from pathlib import Path

    from deepseemoe.config import FeaturesConfig
    from deepseemoe.features.examples import collect_examples

    collect_examples(
        FeaturesConfig.model_validate(job.params.config),
        shards=[Path(path) for path in job.input.shards],
        weights=Path(job.input.weights),
        documents=Path(job.input.documents),
        tokenizer=Path(job.input.tokenizer),
        density=Path(job.output.density),
        neighbours=Path(job.output.neighbours),
        examples=Path(job.output.examples),
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
