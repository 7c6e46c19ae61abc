"""Checkpoints of training: one safetensors file beside the dictionary's folder.

Tensors are the trainer's state; the header holds what JSON can: the step, the rows of the training
table so far, and a name of what is being trained. One file is replaced in one rename, so a kill at
any moment leaves the last whole checkpoint.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deepseemoe.runtime.files import growing

logger = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """A trainer's state after `step` batches, and the log until then (plain data)."""

    step: int
    tensors: dict[str, Tensor]
    log: dict[str, Any]


def checkpoint_path(folder: Path) -> Path:
    """Return where the checkpoint of a dictionary's training stands: beside its folder."""
    return folder.with_name(folder.name + ".checkpoint")


def write_checkpoint(
    path: Path, *, run: str, step: int, tensors: Mapping[str, Tensor], log: Mapping[str, Any]
) -> None:
    """Write a checkpoint of the run named `run`."""
    header = {"run": run, "step": json.dumps(step), "log": json.dumps(log)}
    with growing(path) as partial:
        save_file({name: t.contiguous() for name, t in tensors.items()}, partial, header)


def read_checkpoint(path: Path, *, run: str) -> Checkpoint | None:
    """Return the checkpoint, or None where there is none of the run named `run`."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("run") != run:
                logger.info("%s is of another configuration; training starts anew", path)
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable checkpoint ({error}); delete it") from None
    return Checkpoint(json.loads(header["step"]), tensors, json.loads(header["log"]))
