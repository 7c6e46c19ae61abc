"""Adapter of rule encode_features; the work is in deepseemoe.features.shards."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import device, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Encode every shard of the test split."""
    from pathlib import Path

    from deepseemoe.features.shards import encode_shards

    outputs = [Path(output) for output in job.output]
    encode_shards(
        dictionary=Path(job.input.weights).parent,
        stores=[Path(store) for store in job.input.stores],
        outputs=outputs,
        device=device(job),
        manifest={"run": outputs[0].parents[3].name, "dictionary": job.wildcards.dictionary},
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
