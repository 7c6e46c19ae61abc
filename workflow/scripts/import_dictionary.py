"""Adapter of rule import_dictionary; the work is in deepseemoe.interop.importing."""

from typing import TYPE_CHECKING

from deepseemoe.runtime.stage import run_stage

if TYPE_CHECKING:
    from snakemake.iocontainers import Snakemake, snakemake


def main(job: "Snakemake") -> None:
    """Import the dictionary of one window."""
    from pathlib import Path

    from deepseemoe.config import ImportedConfig, ModelConfig
    from deepseemoe.interop.importing import import_dictionary
    from deepseemoe.model.width import width_of
    from deepseemoe.names import Window

    config, window = job.params.config, Window.parse(job.wildcards.window)
    imported = ImportedConfig.model_validate(config["imported"])
    import_dictionary(
        Path(imported.folder_of(window)),
        format=imported.format,
        window=window,
        folder=Path(job.output.weights).parent,
        d_model=width_of(ModelConfig.model_validate(job.params.model)),
        d_dict=config["d_dict"],
        k=config["k"],
        manifest={"run": job.wildcards.run},
    )


if __name__ == "__main__":
    run_stage(main, snakemake)
