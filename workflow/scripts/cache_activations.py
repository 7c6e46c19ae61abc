"""Adapter of rule cache_activations; the work is in deepseemoe.activations.capture."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import devices, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Cache one shard's activations and router decisions."""
    from pathlib import Path

    from deepseemoe.activations.capture import cache_activations
    from deepseemoe.config import ActivationsConfig, ModelConfig
    from deepseemoe.model.loading import load_model

    folder = Path(job.input.model[0]) if job.input.model else None
    model = load_model(
        ModelConfig.model_validate(job.params.model),
        folder,
        devices=devices(job),
        n_layers=job.params.n_layers,
        head=False,
        sites=job.params.sites,
    )
    cache_activations(
        ActivationsConfig.model_validate(job.params.config),
        model=model,
        tokens=Path(job.input.tokens),
        store=Path(job.output[0]),
        sites=job.params.sites,
        split=job.wildcards.split,
        shard=job.wildcards.shard,
        seed=job.params.seed,
        manifest={
            "run": job.wildcards.run,
            "model": job.params.model,
            "n_experts": model.n_experts,
            "seed": job.params.seed,
        },
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
