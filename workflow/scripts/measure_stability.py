"""Adapter of rule measure_stability; the work is in deepseemoe.justify.stability."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Compare the features that different seeds found on one window."""
    from pathlib import Path

    from deepseemoe.justify.stability import measure_stability

    root = Path(job.output[0]).parents[1] / "dictionary"
    folders = {
        arm: [[root / member / str(seed) for seed in job.params.seeds] for member in members]
        for arm, members in job.params.members.items()
    }
    measure_stability(folders, output=Path(job.output[0]))


if __name__ == "__main__":
    run_stage(main, snakemake)
