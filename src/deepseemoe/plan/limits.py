"""What a machine has, and what of a plan does not fit on it."""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from deepseemoe.config import RunConfig
from deepseemoe.plan.figures import GIB, RESERVE_GIB, Figure, shown_bytes
from deepseemoe.plan.memory import Use


class Limits(NamedTuple):
    """Bytes that a run may use: of each GPU, of RAM, and of the disk for results."""

    gpu: float
    ram: float
    disk: float

    @property
    def gpu_usable(self) -> float:
        """Bytes of a GPU without the reserve."""
        return self.gpu - RESERVE_GIB * GIB


class Problem(NamedTuple):
    """What does not fit: a stage of `devices`, or `disk`; needed and there, in bytes."""

    kind: str
    what: str
    needed: float
    there: float

    def __str__(self) -> str:
        return f"{self.what} needs {shown_bytes(self.needed)} of {shown_bytes(self.there)}"


def limits_of(
    run: RunConfig, *, gpu_gib: float, ram_gib: float | None = None, disk_gib: float | None = None
) -> Limits:
    """Return the limits; RAM and disk are this machine's where they are not given."""
    ram = ram_gib * GIB if ram_gib else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Limits(gpu_gib * GIB, ram, disk_gib * GIB if disk_gib else free_disk(run))


def results_folder(run: RunConfig) -> Path:
    """Return where results go."""
    return Path(run.pathvars.get("results", "results"))


def free_disk(run: RunConfig) -> float:
    """Return the bytes free where results go, or where the folder for them would be made."""
    folder = results_folder(run).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def problems_of(
    disk: Sequence[Figure], uses: Iterable[Use], limits: Limits, run: RunConfig
) -> list[Problem]:
    """Return what does not fit, disk first."""
    return [*_disk(disk, limits, run), *_memory(uses, limits)]


def _disk(disk: Sequence[Figure], limits: Limits, run: RunConfig) -> Iterator[Problem]:
    total = next(figure.value for figure in disk if figure.name == "all")
    if total > limits.disk:
        yield Problem("disk", f"the disk of {results_folder(run)}", total, limits.disk)


def _memory(uses: Iterable[Use], limits: Limits) -> Iterator[Problem]:
    for use in uses:
        there = limits.ram if use.device == "RAM" else limits.gpu_usable
        if use.n_bytes > there:
            yield Problem(use.stage, f"{use.rule}, {use.device}", use.n_bytes, there)
