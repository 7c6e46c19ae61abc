"""Weights that are kept on the way while NanoMoE is trained, to see when its routers settle.

They stand in the model's folder as models of their own, `kept/000117/`, named by the step
after which they were taken. While training runs each is a file beside the folder, so that a kill
loses none of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from deepseemoe.runtime.checkpoint_paths import checkpoint_path
from deepseemoe.runtime.checkpoints import read_checkpoint, write_checkpoint
from deepseemoe.runtime.files import read_json, remove, write_json

KEPT, TOTAL = "kept", "n_steps.json"


class Kept(NamedTuple):
    """A model folder with the weights after `step` steps, and which share of training they are."""

    folder: Path
    step: int
    trained_share: float


class Keeper:
    """Keeps weights after some steps of the training that is named `run` and makes `folder`."""

    def __init__(self, folder: Path, shares: Sequence[float], *, n_steps: int, run: str):
        self.steps = sorted({max(1, round(share * n_steps)) for share in shares} - {n_steps})
        self._folder, self._n_steps, self._run = folder, n_steps, run

    def keep(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Write the weights down if `step` is one of those."""
        if step in self.steps:
            write_checkpoint(self._path(step), run=self._run, step=step, tensors=weights, log={})

    def weights(self, step: int) -> dict[str, Tensor]:
        """Return the weights kept after `step`."""
        found = read_checkpoint(self._path(step), run=self._run)
        if found is None:
            raise ValueError(f"{self._path(step)}: gone while training ran; train again")
        return found.tensors

    def finish(self, partial: Path) -> None:
        """Say in the model's growing folder how many steps there were, where any are kept."""
        if self.steps:
            write_json(partial / KEPT / TOTAL, self._n_steps)

    def clear(self) -> None:
        """Remove the files beside the folder."""
        for step in self.steps:
            remove(self._path(step))

    def _path(self, step: int) -> Path:
        path = checkpoint_path(self._folder)
        return path.with_name(f"{path.name}-{step:06d}")


def kept_models(folder: Path) -> list[Kept]:
    """Return what a model's folder keeps, by step; nothing where it keeps nothing."""
    if not (folder / KEPT / TOTAL).is_file():
        return []
    n_steps = read_json(folder / KEPT / TOTAL)
    found = sorted(path for path in (folder / KEPT).iterdir() if path.is_dir())
    return [Kept(path, int(path.name), int(path.name) / n_steps) for path in found]
