"""Adapter of rule judge_worlds; the work is in deepseemoe.trust.certify."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Map planted worlds and nulls."""
    from pathlib import Path

    from deepseemoe.config import ExpertsConfig, TrustConfig
    from deepseemoe.trust.certify import judge_worlds

    judge_worlds(
        TrustConfig.model_validate(job.params.config),
        ExpertsConfig.model_validate(job.params.experts),
        planted=Path(job.output.planted),
        nulls=Path(job.output.nulls),
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
