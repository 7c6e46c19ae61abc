"""Adapter of rule shuffle_labels; the work is in deepseemoe.trust.cutting."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Tabulate domains with shuffled labels."""
    from pathlib import Path

    from deepseemoe.config import RoutingConfig, TrustConfig
    from deepseemoe.trust.cutting import shuffle_labels

    shuffle_labels(
        TrustConfig.model_validate(job.params.config),
        RoutingConfig.model_validate(job.params.routing),
        stores=[Path(path) for path in job.input.stores],
        documents=Path(job.input.documents),
        tokenizer=Path(job.input.tokenizer),
        nulls=Path(job.output[0]),
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
