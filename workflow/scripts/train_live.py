"""Adapter of rule train_live; the work is in deepseemoe.dictionary.live."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage, shared

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Train all dictionaries of the run while the model runs."""
    from pathlib import Path

    from deepseemoe.config import ActivationsConfig, BatchesConfig, ModelConfig
    from deepseemoe.dictionary.live import train_live
    from deepseemoe.dictionary.pupils import tasks_of
    from deepseemoe.model.loading import load_model

    params = job.params
    model_devices, own = shared(job, **params.on_gpu)
    train_live(
        tasks_of(
            [(name, window) for name in params.dictionaries for window in params.windows],
            params.dictionaries,
            root=Path(job.output.weights[0]).parents[2],
            manifest={"run": job.wildcards.run, "seed": params.seed, "model": params.model},
        ),
        model=load_model(
            ModelConfig.model_validate(params.model),
            Path(job.input.model[0]) if job.input.model else None,
            devices=model_devices,
            n_layers=params.n_layers,
            head=False,
            sites=params.sites,
        ),
        shards=[Path(path) for path in job.input.tokens],
        select_stores=[Path(path) for path in job.input.select],
        activations=ActivationsConfig.model_validate(params.activations),
        batches=BatchesConfig.model_validate(params.batches),
        seed=params.seed,
        device=own,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
