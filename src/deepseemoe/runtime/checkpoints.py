"""Checkpoints of training: one safetensors file beside the folder that the training will write.

Tensors are the trainer's state; the header holds what JSON can: the step, the log so far, and a
name of what is being trained. One file is replaced in one rename, so a kill at any moment leaves
the last whole checkpoint, and nothing is ever unpickled.
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
    """Return where the checkpoint of the training that makes `folder` stands: beside it."""
    return folder.with_name(folder.name + ".checkpoint")


def write_checkpoint(
    path: Path, *, run: str, step: int, tensors: Mapping[str, Tensor], log: Mapping[str, Any]
) -> None:
    """Write a checkpoint of the run named `run`."""
    # One key, for safetensors writes several in an order of chance.
    header = {"checkpoint": json.dumps({"run": run, "step": step, "log": log})}
    with growing(path) as partial:
        save_file({name: t.contiguous() for name, t in tensors.items()}, partial, header)


def header_of(file: Any) -> dict[str, Any]:
    """Return `run`, `step` and `log` of an open checkpoint; all None in a file of another kind."""
    text = (file.metadata() or {}).get("checkpoint")
    return json.loads(text) if text else {"run": None, "step": None, "log": None}


def read_checkpoint(path: Path, *, run: str) -> Checkpoint | None:
    """Return the checkpoint, or None where there is none of the run named `run`.

    Raises ValueError where the file is no whole checkpoint.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = header_of(file)
            if header["run"] != run:
                logger.info("%s is of another configuration; training starts anew", path)
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable checkpoint ({error}); delete it") from None
    return Checkpoint(header["step"], tensors, header["log"])
