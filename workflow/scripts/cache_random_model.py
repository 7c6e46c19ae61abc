"""Adapter of rule cache_random_model; the work is in deepseemoe.activations.capture."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import devices, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Cache one test shard's activations of the model with random weights."""
    from pathlib import Path

    from deepseemoe.activations.capture import cache_activations
    from deepseemoe.config import ActivationsConfig, ModelConfig
    from deepseemoe.justify.random_model import random_config
    from deepseemoe.model.loading import load_model

    folder = Path(job.input.model)
    config = random_config(ModelConfig.model_validate(job.params.model), folder)
    options = {"n_layers": job.params.n_layers, "head": False, "sites": job.params.sites}
    cache_activations(
        ActivationsConfig.model_validate(job.params.config),
        model=load_model(config, folder, devices=devices(job), **options),
        tokens=Path(job.input.tokens),
        store=Path(job.output[0]),
        sites=job.params.sites,
        split="test",
        shard=job.wildcards.shard,
        seed=job.params.seed,
        manifest={
            "run": job.wildcards.run,
            "weights": "random",
            "model": job.params.model,
            "seed": job.params.seed,
        },
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
