"""Adapter of rule cut_ties; the work is in deepseemoe.trust.cutting."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Map features with routing that is not theirs."""
    from pathlib import Path

    from deepseemoe.config import ExpertsConfig, TrustConfig
    from deepseemoe.trust.cutting import cut_ties

    cut_ties(
        TrustConfig.model_validate(job.params.config),
        ExpertsConfig.model_validate(job.params.experts),
        reads=Path(job.input.reads),
        summary=Path(job.input.summary),
        feature_shards=[Path(path) for path in job.input.features],
        stores=[Path(path) for path in job.input.stores],
        random_stores=[Path(path) for path in job.input.random],
        nulls=Path(job.output[0]),
        dictionary=job.wildcards.dictionary,
        window=job.wildcards.window,
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
