"""Adapter of rule train_dictionary; the work is in deepseemoe.dictionary."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import ranks, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Train the dictionary of one window."""
    from pathlib import Path

    from deepseemoe.config import DictionaryConfig
    from deepseemoe.dictionary.launch import train_on
    from deepseemoe.dictionary.train import Task
    from deepseemoe.names import Window

    task = Task.of(
        DictionaryConfig.model_validate(job.params.config),
        Window.parse(job.wildcards.window),
        Path(job.output.weights).parent,
        {"run": job.wildcards.run, "seed": job.params.seed},
    )
    train_on(
        ranks(job),
        [task],
        stores=[Path(path) for path in job.input.train],
        select_stores=[Path(path) for path in job.input.select],
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
