"""Adapter of rules train_round_*; the work is in deepseemoe.dictionary.rounds."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import ranks, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Train a group of dictionaries on a round that is not the last."""
    from pathlib import Path

    from deepseemoe.config.rounds import Round
    from deepseemoe.dictionary.launch import train_on
    from deepseemoe.dictionary.pupils import tasks_of
    from deepseemoe.dictionary.rounds import Place, train_round

    kept = [Path(path) for path in job.output]
    train_on(
        ranks(job),
        tasks_of(
            job.params.members,
            job.params.dictionaries,
            root=kept[0].parents[3] / "dictionary",
            manifest={"run": job.wildcards.run, "seed": job.params.seed},
        ),
        work=train_round,
        stores=sorted(Path(job.input.stores).glob("*.zarr")),
        place=Place(Round(*job.params.round), tuple(map(Path, job.input.before))),
        kept=kept,
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
