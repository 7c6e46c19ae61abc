"""Adapter of rule tabulate_routing; the work is in deepseemoe.routing.tabulate."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Tabulate the routers' decisions on the test split."""
    from pathlib import Path

    from deepseemoe.config import RoutingConfig
    from deepseemoe.routing.tabulate import tabulate_routing

    tabulate_routing(
        RoutingConfig.model_validate(job.params.config),
        stores=[Path(path) for path in job.input.stores],
        documents=Path(job.input.documents),
        tokenizer=Path(job.input.tokenizer),
        tables={name: Path(path) for name, path in job.output.items()},
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
