"""Adapter of rule train_dictionary; the work is in deepseemoe.dictionary.train."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import device, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Train the dictionary of one window."""
    from pathlib import Path

    from deepseemoe.config import DictionaryConfig
    from deepseemoe.dictionary.train import train_dictionary
    from deepseemoe.names import Window

    train_dictionary(
        DictionaryConfig.model_validate(job.params.config),
        window=Window.parse(job.wildcards.window),
        stores=[Path(path) for path in job.input.train],
        select_stores=[Path(path) for path in job.input.select],
        folder=Path(job.output.weights).parent,
        seed=job.params.seed,
        device=device(job),
        manifest={"run": job.wildcards.run, "seed": job.params.seed},
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
