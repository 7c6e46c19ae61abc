"""Adapter of rule write_config; the work is in deepseemoe.runtime.provenance."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Write the resolved configuration and the versions of what it runs on."""
    from deepseemoe.config import load_run
    from deepseemoe.runtime.provenance import write_config

    write_config(job.output[0], load_run(job.params.run))


if __name__ == "__main__":
    run_stage(main, snakemake)
