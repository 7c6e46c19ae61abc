"""A dictionary inside of its run's folder, and what the run found on it.

The input of exports that are about features rather than weights.
"""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from deepseemoe.dictionary.folder import CONFIG
from deepseemoe.names import Window
from deepseemoe.runtime.files import read_json

EXPECTED = "results/RUN/dictionary/NAME/WINDOW"


class RunFolder(NamedTuple):
    """One dictionary and window of a run."""

    root: Path
    """results/RUN"""
    name: str
    """of the dictionary"""
    window: Window
    described: dict[str, Any]
    """config.json of the dictionary"""
    config: dict[str, Any]
    """config.yaml of the run"""

    @classmethod
    def of(cls, source: Path, format: str) -> "RunFolder":
        """Return what stands around the dictionary in `source`, results/RUN/dictionary/NAME/WINDOW.

        Raises ValueError where there is no dictionary, or it stands in no run.
        """
        path = source.resolve()
        if not (path / CONFIG).is_file():
            raise ValueError(f"{source}: no dictionary, it has no {CONFIG}; name {EXPECTED}")
        if path.parents[1].name != "dictionary":
            raise ValueError(
                f"{source}: {format} is written from what a run found, and this dictionary stands "
                f"in no run; name {EXPECTED}"
            )
        root = path.parents[2]
        if not (root / "config.yaml").is_file():
            raise ValueError(f"{root}: the run has no config.yaml; run `snakemake write_config`")
        config = yaml.safe_load((root / "config.yaml").read_text(encoding="utf-8"))
        window = Window.parse(path.name)
        return cls(root, path.parent.name, window, read_json(path / CONFIG), config)

    @property
    def run(self) -> str:
        """The name of the run."""
        return self.config["name"]

    @property
    def d_dict(self) -> int:
        """Features of the dictionary."""
        return self.described["d_dict"]

    def model(self, told: str | None) -> str:
        """Return the name of the model: what was told, the run's, or the run itself."""
        return told or self.config["model"].get("name") or f"nanomoe-{self.run}"

    def file(self, stage: str, name: str, made_by: str) -> Path:
        """Return a file of a stage; raise ValueError in one line where it was not made yet."""
        path = self.optional(stage, name)
        if not path.exists():
            raise ValueError(f"{path}: not made yet; run `snakemake {made_by}` of run {self.run}")
        return path

    def optional(self, stage: str, name: str) -> Path:
        """Return where a file of a stage stands if it was made."""
        return self.root / stage / self.name / str(self.window) / name

    def shards(self) -> list[Path]:
        """Return the feature shards, in the order of the text; raise ValueError where none is."""
        folder = self.optional("features", "")
        found = sorted(folder.glob("[0-9]*.zarr"))
        if not found:
            raise ValueError(f"{folder}: no feature shards; run `snakemake encode_features` first")
        names = [f"{number:05d}.zarr" for number in range(len(found))]
        if [path.name for path in found] != names:
            raise ValueError(
                f"{folder}: shards {', '.join(path.name for path in found)}; expected "
                f"{names[0]} to {names[-1]} without a gap; run `snakemake encode_features` again"
            )
        return found
