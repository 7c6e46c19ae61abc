"""Adapter of rule cache_round; the work is in deepseemoe.activations.resume."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import devices, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Cache the activations and router decisions of all shards of a round."""
    from pathlib import Path

    from deepseemoe.activations.resume import cache_into
    from deepseemoe.activations.rounds import remove_others
    from deepseemoe.config import ActivationsConfig, ModelConfig
    from deepseemoe.model.loading import load_model
    from deepseemoe.runtime.files import commit, partial_path

    folder = Path(job.output[0])
    remove_others(folder.parent, number=int(job.wildcards.round))
    model = load_model(
        ModelConfig.model_validate(job.params.model),
        Path(job.input.model[0]) if job.input.model else None,
        devices=devices(job),
        n_layers=job.params.n_layers,
        head=False,
        sites=job.params.sites,
    )
    cache_into(
        partial_path(folder),
        config=ActivationsConfig.model_validate(job.params.config),
        model=model,
        tokens=[Path(path) for path in job.input.tokens],
        sites=job.params.sites,
        split="train",
        seed=job.params.seed,
        manifest={
            "run": job.wildcards.run,
            "model": job.params.model,
            "n_experts": model.n_experts,
            "seed": job.params.seed,
        },
        model_files=job.params.files,
    )
    commit(partial_path(folder), folder)


if __name__ == "__main__":
    run_stage(main, snakemake)
