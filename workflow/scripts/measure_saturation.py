"""Adapter of rule measure_saturation; the work is in deepseemoe.routing.saturate."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import devices, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Measure when the routers of the run's own model settle."""
    from pathlib import Path

    from deepseemoe.config import ModelConfig, RoutingConfig
    from deepseemoe.routing.saturate import measure_saturation

    measure_saturation(
        RoutingConfig.model_validate(job.params.config),
        model_config=ModelConfig.model_validate(job.params.model),
        model=Path(job.input.model[0]),
        tokens=[Path(path) for path in job.input.tokens],
        table=Path(job.output.saturation),
        devices=devices(job),
        seed=job.params.seed,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
