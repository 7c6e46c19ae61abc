"""Adapter of rule evaluate_arms; the work is in deepseemoe.justify.evaluate."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import devices, run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Measure all arms of one window and seed on the test split."""
    from pathlib import Path

    from deepseemoe.config import JustifyConfig, ModelConfig
    from deepseemoe.justify.evaluate import evaluate_window
    from deepseemoe.model.loading import load_model
    from deepseemoe.names import Window

    model, own = None, job.wildcards
    if own.weights == "trained":
        folder = Path(job.input.model[0]) if job.input.model else None
        config = ModelConfig.model_validate(job.params.model)
        model = load_model(config, folder, devices=devices(job))
    root = Path(job.output.sums).parents[4] / "dictionary"
    evaluate_window(
        JustifyConfig.model_validate(job.params.config),
        window=Window.parse(own.window),
        weights=own.weights,
        seed=int(own.seed),
        folder_of=lambda member: root / member.arm / str(member.window) / own.seed,
        select_stores=[Path(path) for path in job.input.select],
        test_stores=[Path(path) for path in job.input.test],
        tokens=[Path(path) for path in job.input.tokens],
        model=model,
        folder=Path(job.output.sums).parent,
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
