"""Adapter of rule train_arm; the work is in deepseemoe.justify.training."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import device, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Train one dictionary of the experiment."""
    from pathlib import Path

    from deepseemoe.config import JustifyConfig
    from deepseemoe.justify.plan import Member
    from deepseemoe.justify.training import train_member

    train_member(
        JustifyConfig.model_validate(job.params.config),
        member=Member.parse(job.wildcards.arm, job.wildcards.window),
        stores=[Path(path) for path in job.input.train],
        select_stores=[Path(path) for path in job.input.select],
        folder=Path(job.output.weights).parent,
        seed=int(job.wildcards.seed),
        device=device(job),
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
