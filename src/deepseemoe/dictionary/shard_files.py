"""Checkpoints of a dictionary that several ranks train: a safetensors file of each rank's rows.

They stand in a folder beside the checkpoint of a single process, and count once `index.json` names
them all: ranks that were killed while they wrote leave the last whole set. Who owns which rows
follows from the number of ranks alone, so any other number reads its rows as slices.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deepseemoe.dictionary.ranks import Ranks
from deepseemoe.dictionary.shards import Shard, rows_of
from deepseemoe.runtime.checkpoint_paths import shards_path
from deepseemoe.runtime.checkpoints import (
    Checkpoint,
    header_of,
    refuse_damaged,
    write_checkpoint,
)
from deepseemoe.runtime.files import read_json, write_json
from deepseemoe.runtime.tables import digest

INDEX = "index.json"

Sizes = tuple[int, ...] | None
"""Sizes of the parts whose rows a tensor stacks; None for a tensor that every rank has whole."""


class Found(NamedTuple):
    """A whole set of files after `step` batches, one of each rank that wrote it."""

    step: int
    files: tuple[Path, ...]


def write_shards(
    checkpoint: Path,
    ranks: Ranks,
    *,
    run: str,
    step: int,
    tensors: Mapping[str, Tensor],
    log: Mapping[str, Any],
) -> None:
    """Write this rank's share of a checkpoint; all ranks call it, and return when it counts."""
    folder = shards_path(checkpoint)
    names = [f"{step:09d}-{rank}-of-{ranks.n_ranks}.safetensors" for rank in range(ranks.n_ranks)]
    mine = folder / names[ranks.rank]
    write_checkpoint(mine, run=run, step=step, tensors=tensors, log=log)
    ranks.wait()
    if ranks.rank == 0:
        index = {"format": 1, "run": run, "step": step, "files": names}
        write_json(folder / INDEX, {**index, "digest": digest(index)})
        checkpoint.unlink(missing_ok=True)  # of a single process that came before
        for old in set(folder.glob("*.safetensors")) - {folder / name for name in names}:
            old.unlink()
    ranks.wait()


def find(checkpoint: Path, *, run: str) -> Found | None:
    """Return the last whole checkpoint of the run named `run`, by one process or by several."""
    found = [*_single(checkpoint, run), *_sharded(checkpoint, run)]
    return max(found, key=lambda one: one.step, default=None)


def read_share(found: Found, shard: Shard, sizes: Mapping[str, Sizes]) -> Checkpoint:
    """Return a rank's share of a checkpoint, whatever number of ranks wrote it.

    `sizes` are those of each tensor. Raises ValueError where a file is damaged.
    """
    try:
        for path in found.files:
            refuse_damaged(path)
        with ExitStack() as opened:
            files = [opened.enter_context(safe_open(path, framework="pt")) for path in found.files]
            log = header_of(files[0])["log"]
            tensors = {name: _rows(files, name, shard, parts) for name, parts in sizes.items()}
    except (SafetensorError, FileNotFoundError) as error:
        where = found.files[0].parent
        raise ValueError(f"{where}: not a readable checkpoint ({error}); delete it") from None
    return Checkpoint(found.step, tensors, log)


def _single(path: Path, run: str) -> Iterator[Found]:
    if not path.exists():
        return
    refuse_damaged(path)  # a damaged name of the run would pass for another run
    try:
        with safe_open(path, framework="pt") as file:
            header = header_of(file)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable checkpoint ({error}); delete it") from None
    if header["run"] == run:
        yield Found(header["step"], (path,))


def _sharded(checkpoint: Path, run: str) -> Iterator[Found]:
    folder = shards_path(checkpoint)
    if not (folder / INDEX).is_file():
        return
    try:
        index = read_json(folder / INDEX)
        if index.pop("digest") != digest(index):
            raise ValueError(f"the digest of {INDEX} is wrong")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder}: not a readable checkpoint ({error}); delete it") from None
    if index["run"] == run:
        yield Found(index["step"], tuple(folder / name for name in index["files"]))


def _rows(files: Sequence[Any], name: str, shard: Shard, sizes: Sizes) -> Tensor:
    """Return a rank's rows of a tensor, or all of one that every rank has whole."""
    if sizes is None:
        return files[0].get_tensor(name)
    pieces = []
    for part, size in enumerate(sizes):
        wanted = shard.rows(size)
        for rank, file in enumerate(files):
            there = rows_of(size, rank, len(files))
            first, stop = max(wanted.start, there.start), min(wanted.stop, there.stop)
            if first < stop:
                before = sum(len(rows_of(n, rank, len(files))) for n in sizes[:part])
                start = before + first - there.start
                pieces.append(file.get_slice(name)[start : start + stop - first])
    return torch.cat(pieces)
