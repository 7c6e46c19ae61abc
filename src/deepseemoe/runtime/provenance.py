"""What made a run: its configuration, and the versions of what its results depend on."""

from importlib.metadata import version
from os import PathLike

import yaml

from deepseemoe.config import RunConfig
from deepseemoe.runtime.files import write_text

PACKAGES = (
    "deepseemoe",
    "torch",
    "transformers",
    "tokenizers",
    "zarr",
    "numpy",
    "scipy",
    "pyarrow",
)


def write_config(path: str | PathLike[str], run: RunConfig) -> None:
    """Write the resolved configuration of a run; it can be given to Snakemake again as it is."""
    versions = "".join(f"#   {name} {version(name)}\n" for name in PACKAGES)
    text = yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_text(path, f"# The resolved configuration of run {run.name}, made with\n{versions}{text}")
