"""Adapter of rule pack_corpus; the work is in deepseemoe.corpus.pack."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Pack the corpus into the shards of every split."""
    from pathlib import Path

    from deepseemoe.config import CorpusConfig
    from deepseemoe.corpus.pack import pack_corpus

    pack_corpus(
        CorpusConfig.model_validate(job.params.config),
        tokenizer_folder=Path(job.input.tokenizer),
        shards={
            "train": [Path(path) for path in job.output.train],
            "select": [Path(path) for path in job.output.select],
            "test": [Path(path) for path in job.output.test],
        },
        documents=Path(job.output.documents),
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
