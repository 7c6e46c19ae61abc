"""Adapter of rule label_experts; the work is in deepseemoe.labels.experts."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Describe each expert."""
    from pathlib import Path

    from deepseemoe.labels.experts import label_experts

    label_experts(
        reads=Path(job.input.reads),
        summary=Path(job.input.summary),
        feature_labels=Path(job.input.features),
        routing=Path(job.input.routing[0]).parent,
        writes=Path(job.input.writes),
        experts=Path(job.output[0]),
        expert_domains=job.params.expert_domains,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
