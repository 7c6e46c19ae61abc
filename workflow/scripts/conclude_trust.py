"""Adapter of rule conclude_trust; the work is in deepseemoe.trust.conclude."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Write all nulls and the summary."""
    from pathlib import Path

    from deepseemoe.trust.conclude import conclude_trust

    conclude_trust(
        planted=Path(job.input.planted),
        parts=[Path(path) for path in job.input.parts],
        nulls=Path(job.output.nulls),
        summary=Path(job.output.summary),
        run=job.wildcards.run,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
