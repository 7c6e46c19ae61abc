"""Adapter of rules cache_shards_*; the work is in deepseemoe.activations.resume."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import devices, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Cache activations and router decisions of several shards."""
    from pathlib import Path

    from deepseemoe.activations.resume import cache_shards
    from deepseemoe.config import ActivationsConfig, ModelConfig
    from deepseemoe.model.loading import load_model

    stores = [Path(store) for store in job.output]
    split = stores[0].parent
    model = load_model(
        ModelConfig.model_validate(job.params.model),
        Path(job.input.model[0]) if job.input.model else None,
        devices=devices(job),
        n_layers=job.params.n_layers,
        head=False,
        sites=job.params.sites,
    )
    cache_shards(
        stores,
        tokens=[Path(tokens) for tokens in job.input.tokens],
        config=ActivationsConfig.model_validate(job.params.config),
        model=model,
        sites=job.params.sites,
        split=split.name,
        seed=job.params.seed,
        manifest={
            "run": split.parents[1].name,
            "model": job.params.model,
            "n_experts": model.n_experts,
            "seed": job.params.seed,
        },
        model_files=job.params.files,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
