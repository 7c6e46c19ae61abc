"""Adapter of rules train_together_*; the work is in deepseemoe.dictionary.together."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import ranks, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Train a group of dictionaries from one pass over the stores."""
    from pathlib import Path

    from deepseemoe.dictionary.launch import train_on
    from deepseemoe.dictionary.pupils import tasks_of

    train_on(
        ranks(job),
        tasks_of(
            job.params.members,
            job.params.dictionaries,
            root=Path(job.output.weights[0]).parents[2],
            manifest={"run": job.wildcards.run, "seed": job.params.seed},
        ),
        stores=[Path(path) for path in job.input.train],
        select_stores=[Path(path) for path in job.input.select],
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
