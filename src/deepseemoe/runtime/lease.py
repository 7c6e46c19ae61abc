"""One job on a GPU at a time, whoever started it.

Snakemake counts the GPUs of one workflow; it knows nothing of a second one, or of jobs that
outlived a killed one. So each job locks the GPUs that it takes, all or none of them, which cannot
deadlock, and shows itself no others: CUDA_VISIBLE_DEVICES holds them in the order of its pins. A
lease ends when the job and all processes that it forked or spawned (`held`) are dead, since memory
of a GPU that was opened stays until then. It must be taken before anything opens a GPU.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import reduction
from typing import Any, NamedTuple

from deepseemoe.runtime.gpus import Gpu, Gpus, gpus_here
from deepseemoe.runtime.locks import (
    Folder,
    lock_folder,
    locked,
    read_note,
    safe,
    tidy,
    write_note,
)
from deepseemoe.runtime.pins import Stages, decoded, places, share

logger = logging.getLogger(__name__)

LOOK_SECONDS = (0.1, 1.0)
"""How long a job waits between two looks: at first, and after a while."""


class Lease(NamedTuple):
    """What a job may use: GPUs as CUDA_VISIBLE_DEVICES names them, and each stage's devices."""

    ids: tuple[str, ...] = ()
    stages: tuple[tuple[str, ...], ...] = ()
    are_fake: bool = False

    @property
    def devices(self) -> tuple[str, ...]:
        """The job's devices, as torch names them."""
        if self.are_fake or not self.ids:
            return ("cpu",)
        return tuple(f"cuda:{number}" for number in range(len(self.ids)))

    def of_stage(self, place: int) -> tuple[str, ...]:
        """Return the devices of one of the job's stages on GPUs, counted from 0."""
        return ("cpu",) if self.devices == ("cpu",) else self.stages[place]


@contextmanager
def leased(job: Any) -> Iterator[Lease]:
    """Hold the GPUs that the job of a rule asks for; wait for them as long as it takes.

    A machine without GPUs gives an empty lease. Raises ValueError where SLURM granted a job none of
    those that it asks for, and OSError where GPUs cannot be locked.
    """
    stages = asked(job)
    gpus = gpus_here() if stages else Gpus(())
    if not gpus.gpus:
        _check_granted(stages, gpus)
        with _showing(()):
            yield Lease()
        return
    with _holding(stages, gpus, note=_note(job)) as numbers:
        lease = _lease(numbers, gpus)
        with _showing(lease.ids):
            yield lease


def asked(job: Any) -> Stages:
    """Return the pins of a job; of a rule that says how many GPUs and no more, any."""
    if number := job.resources.get("pins", 0):
        return decoded(number)
    n_gpus = job.resources.get("gpu", 0)
    return ((None,) * n_gpus,) if n_gpus else ()


def _check_granted(stages: Stages, gpus: Gpus) -> None:
    if stages and gpus.slurm_job:
        raise ValueError(
            f"devices: a GPU is asked for, and {gpus.why_none} (CUDA_VISIBLE_DEVICES is "
            f"{os.environ.get('CUDA_VISIBLE_DEVICES')!r}); let the profile ask for GPUs, or write "
            "cpu at `devices`"
        )


def _lease(numbers: Sequence[Sequence[int]], gpus: Gpus) -> Lease:
    """Return the lease on these GPUs, given stage by stage."""
    taken = list(dict.fromkeys(number for part in numbers for number in part))
    stages = [tuple(dict.fromkeys(f"cuda:{taken.index(n)}" for n in part)) for part in numbers]
    return Lease(tuple(gpus.gpus[n].id for n in taken), tuple(stages), gpus.are_fake)


@contextmanager
def _holding(
    stages: Stages, gpus: Gpus, *, note: dict[str, Any]
) -> Iterator[Sequence[Sequence[int]]]:
    """Hold locks on the GPUs of these pins, and yield the GPUs of each stage."""
    with lock_folder() as folder:
        locks = _waited_for(folder, stages, gpus, note)
        _HELD.extend(locks.values())
        named = share(stages, len(gpus.gpus)).named
        others = [n for n in map(gpus.gpus.index, locks) if n not in named]
        try:
            yield places(stages, len(gpus.gpus), others)
        finally:
            if gpus.slurm_job or not _has_opened_a_gpu():
                for descriptor in locks.values():
                    _HELD.remove(descriptor)
                    os.close(descriptor)  # a process that was forked holds on to it
            if gpus.slurm_job:  # whose locks nobody will take again
                tidy(folder, map(_lock, locks))


def _has_opened_a_gpu() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()


def _waited_for(folder: Folder, stages: Stages, gpus: Gpus, note: dict[str, Any]) -> dict[Gpu, int]:
    """Return locks on GPUs, as soon as all that are wanted can be had at once."""
    wanted = share(stages, len(gpus.gpus))
    named = [gpus.gpus[number] for number in wanted.named]
    began, has_told = time.monotonic(), False
    while True:
        locks, busy = _attempt(folder, named, gpus.gpus, len(named) + wanted.n_others)
        if locks is not None:
            break
        if not has_told:
            logger.info("waiting for %s", _told(folder, busy, len(named) + wanted.n_others))
            has_told = True
        waited = time.monotonic() - began
        # Not in step with others that wait, and rarely where it takes long anyway.
        time.sleep(min(LOOK_SECONDS[1], LOOK_SECONDS[0] + waited / 20) * (1 + os.getpid() % 7 / 7))
    if has_told:
        logger.info("waited %.0f s for %s", time.monotonic() - began, _names(list(locks)))
    for descriptor in locks.values():
        write_note(descriptor, note | {"since": time.time()})
    return locks


def _attempt(
    folder: Folder, named: Sequence[Gpu], all_gpus: Sequence[Gpu], n_wanted: int
) -> tuple[dict[Gpu, int] | None, list[Gpu]]:
    """Return locks on all named GPUs and on others, or None, and the GPUs that were busy."""
    locks: dict[Gpu, int] = {}
    busy: list[Gpu] = []
    for gpu in (*named, *(gpu for gpu in all_gpus if gpu not in named)):
        if len(locks) == n_wanted or (busy and busy[-1] in named):
            break
        descriptor = locked(folder, _lock(gpu))
        if descriptor is None:
            busy.append(gpu)
        else:
            locks[gpu] = descriptor
    if len(locks) == n_wanted:
        return locks, busy
    for descriptor in locks.values():
        os.close(descriptor)
    return None, busy


def _lock(gpu: Gpu) -> str:
    return f"{safe(gpu.lock)}.lock"


def _note(job: Any) -> dict[str, Any]:
    return {"pid": os.getpid(), "rule": str(getattr(job, "rule", ""))[:100]}


def _told(folder: Folder, busy: Sequence[Gpu], n_wanted: int) -> str:
    """Return what is waited for, and who has it."""
    holders = [_holder(read_note(folder, _lock(gpu))) for gpu in busy]
    pairs = [f"GPU {gpu.id}, held by {who}" for gpu, who in zip(busy, holders, strict=True)]
    several = f"{n_wanted} GPUs at once: " if n_wanted > 1 else ""
    return several + "; ".join(pairs)


def _holder(note: Mapping[str, Any]) -> str:
    """Return a holder in words; a note is another user's text, so nothing else of it is shown."""
    pid, rule, since = note.get("pid"), note.get("rule"), note.get("since")
    words = f"process {pid}" if isinstance(pid, int) else "another process"
    if isinstance(rule, str) and re.fullmatch(r"\w{1,100}", rule, re.ASCII):
        words += f" (rule {rule})"
    if isinstance(since, float) and 0 < since < 2**32:
        words += time.strftime(" since %Y-%m-%d %H:%M:%S", time.localtime(since))
    return words


def _names(gpus: Sequence[Gpu]) -> str:
    return ("GPU " if len(gpus) == 1 else "GPUs ") + ", ".join(gpu.id for gpu in gpus)


@contextmanager
def _showing(ids: Sequence[str]) -> Iterator[None]:
    """Show these GPUs and no others, numbered as by nvidia-smi, to this process and children."""
    before = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")}
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(ids)
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_HELD: list[int] = []
"""The locks of this process."""


class Held:
    """The locks of a process, to be handed to one that it spawns, which then holds them as well."""

    def __init__(self, descriptors: Sequence[int]):
        self._descriptors = tuple(descriptors)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, ([reduction.DupFd(number) for number in self._descriptors],)


def held() -> Held:
    """Return the locks of this process, which one that it spawns holds too if given them."""
    return Held(_HELD)


def _received(copies: Sequence[Any]) -> Held:
    return Held([copy.detach() for copy in copies])
