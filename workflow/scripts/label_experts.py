"""Adapter of rule label_experts; the work is in deepseemoe.labels.experts."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Describe each expert and score the description."""
    from pathlib import Path

    from deepseemoe.config import LabelsConfig
    from deepseemoe.labels.experts import label_experts

    label_experts(
        LabelsConfig.model_validate(job.params.config),
        reads=Path(job.input.reads),
        summary=Path(job.input.summary),
        feature_labels=Path(job.input.features),
        routing=Path(job.input.routing[0]).parent,
        writes=Path(job.input.writes),
        shared=Path(job.input.shared),
        shards=[Path(path) for path in job.input.shards],
        stores=[Path(path) for path in job.input.stores],
        weights=Path(job.input.weights),
        documents=Path(job.input.documents),
        tokenizer=Path(job.input.tokenizer),
        experts=Path(job.output.experts),
        scores=Path(job.output.scores),
        expert_domains=job.params.expert_domains,
        seed=job.params.seed,
        bill=Path(job.output.bill),
        answers=Path(job.output.experts).parents[2] / "answers",
        name=f"{job.wildcards.dictionary}-{job.wildcards.window}-experts",
        parts=job.params.parts,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
