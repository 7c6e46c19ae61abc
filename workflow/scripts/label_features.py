"""Adapter of rule label_features; the work is in deepseemoe.labels.features."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Describe each feature and score the description."""
    from pathlib import Path

    from deepseemoe.config import LabelsConfig
    from deepseemoe.labels.features import label_features

    of_run = Path(job.output.features).parents[2]
    label_features(
        LabelsConfig.model_validate(job.params.config),
        shards=[Path(path) for path in job.input.shards],
        density=Path(job.input.density),
        examples=Path(job.input.examples),
        documents=Path(job.input.documents),
        tokenizer=Path(job.input.tokenizer),
        features=Path(job.output.features),
        scores=Path(job.output.scores),
        bill=Path(job.output.bill),
        seed=job.params.seed,
        reads=Path(job.input.reads),
        answers=of_run / "answers",
        name=f"{job.wildcards.dictionary}-{job.wildcards.window}-features",
        parts=job.params.parts,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
