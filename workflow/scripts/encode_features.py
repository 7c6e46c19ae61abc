"""Adapter of rule encode_features; the work is in deepseemoe.features.encode."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import device, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Encode one shard of the test split."""
    from pathlib import Path

    from deepseemoe.features.encode import encode_features

    encode_features(
        dictionary=Path(job.input.weights).parent,
        store=Path(job.input.store),
        output=Path(job.output[0]),
        device=device(job),
        manifest={"run": job.wildcards.run, "dictionary": job.wildcards.dictionary},
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
