"""Checkpoints of training: one safetensors file beside the folder that the training will write.

Tensors are the trainer's state; the header holds what JSON can: the step, the log so far, and a
name of what is being trained. One file is replaced in one rename, so a kill at any moment leaves
the last whole checkpoint, and nothing is ever unpickled. The header also holds the crc32c of the
file, taken while these eight digits were zeros.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deepseemoe.runtime.files import growing

logger = logging.getLogger(__name__)

_OPEN, _NAME = "00000000", rb"\"crc32c\": \""
_LONGEST_HEADER = 100_000_000
"""Of a safetensors file; a longer one is refused by every reader."""
_BLOCK = 1 << 23


class Checkpoint(NamedTuple):
    """A trainer's state after `step` batches, and the log until then (plain data)."""

    step: int
    tensors: dict[str, Tensor]
    log: dict[str, Any]


def write_checkpoint(
    path: Path, *, run: str, step: int, tensors: Mapping[str, Tensor], log: Mapping[str, Any]
) -> None:
    """Write a checkpoint of the run named `run`."""
    # One key, for safetensors writes several in an order of chance.
    header = {"crc32c": _OPEN, "run": run, "step": step, "log": log}
    with growing(path) as partial:
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(whole, partial, {"checkpoint": json.dumps(header)})
        place, _ = _sum_of(partial)
        with open(partial, "r+b") as file:
            file.seek(place)
            file.write(_checksum(partial, place).encode())


def refuse_damaged(path: Path) -> None:
    """Raise ValueError where a checkpoint is not as it was written, or is no file."""
    if told := _damage(path):
        raise ValueError(f"{path}: not a readable checkpoint ({told}); delete it")


def _damage(path: Path) -> str | None:
    if path.exists() and not path.is_file():
        return "it is no file"
    place, found = _sum_of(path)
    if found is None:
        return "it has no checksum, so it is damaged or of an older version"
    return None if found == _checksum(path, place) else "its checksum is wrong"


def _sum_of(path: Path) -> tuple[int, str | None]:
    """Return where the checksum stands in the file, and what it is; None where there is none."""
    with open(path, "rb") as file:
        length = min(int.from_bytes(file.read(8), "little"), _LONGEST_HEADER)
        place = file.read(length).find(_NAME)
        if place < 0:
            return 0, None
        place += 8 + len(_NAME)
        file.seek(place)
        return place, file.read(len(_OPEN)).decode(errors="replace")


def _checksum(path: Path, place: int) -> str:
    """Return the crc32c of a file whose digits at `place` are taken for zeros."""
    value, done = 0, 0
    with open(path, "rb", buffering=0) as file:
        for size in (place, len(_OPEN)):
            block = file.read(size)
            value = google_crc32c.extend(value, block if done == 0 else _OPEN.encode())
            done += size
        while block := file.read(_BLOCK):
            value = google_crc32c.extend(value, block)
    return f"{value:08x}"


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
        refuse_damaged(path)
        with safe_open(path, framework="pt") as file:
            header = header_of(file)
            if header["run"] != run:
                logger.info("%s is of another configuration; training starts anew", path)
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable checkpoint ({error}); delete it") from None
    return Checkpoint(header["step"], tensors, header["log"])
