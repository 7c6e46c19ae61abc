"""Adapter of rule prepare_tokenizer; the work is in deepseemoe.corpus.tokenizer."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Copy or train the run's tokenizer."""
    from pathlib import Path

    from deepseemoe.config import CorpusConfig
    from deepseemoe.corpus.tokenizer import prepare_tokenizer

    model = job.params.model
    prepare_tokenizer(
        CorpusConfig.model_validate(job.params.config),
        model_name=model["name"] if model["source"] == "hub" else None,
        revision=model["revision"],
        folder=Path(job.output[0]),
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
