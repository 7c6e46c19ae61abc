"""A job's processes: one where it has one device, else one a device, which share the features.

Processes are of this machine only; they find one another through a file, and end together: where
one fails, the others are stopped, and where this one is killed, so are they.
"""

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from deepseemoe.dictionary.form import parts_in
from deepseemoe.dictionary.shards import shard_of
from deepseemoe.dictionary.together import train_together
from deepseemoe.dictionary.train import Task
from deepseemoe.runtime.files import write_json
from deepseemoe.runtime.lease import Held, held
from deepseemoe.runtime.memory import out_of_memory

PATIENCE = timedelta(minutes=20)
"""How long a rank waits for the others in one step, before it takes them for lost."""

LOOK_SECONDS = 1.0
"""How often a rank looks whether the job still lives."""


class Job(NamedTuple):
    """What every rank is told."""

    devices: tuple[str, ...]
    tasks: tuple[Task, ...]
    work: Callable[..., Any]
    options: dict[str, Any]
    folder: Path
    parent: int
    n_threads: int
    lease: Held


def train_on(
    devices: Sequence[str],
    tasks: Sequence[Task],
    *,
    work: Callable[..., Any] = train_together,
    **options: Any,
) -> None:
    """Train a dictionary for each task, its features spread over `devices`.

    `work` is a function of a module (`train_together`, `rounds.train_round`) that takes the tasks,
    `options`, and which device and rank it is. Raises what it does, ValueError where there are more
    devices than features, and OSError where a process was killed.
    """
    if len(devices) == 1:
        work(tasks, device=devices[0], **options)
        return
    for task in tasks:
        n_layers = len(task.window.layers)
        shard_of(parts_in(task.config, n_layers=n_layers, grouped=True), 0, len(devices))
    with TemporaryDirectory(prefix="deepseemoe-ranks-") as folder:
        n_threads = max(1, torch.get_num_threads() // len(devices))
        told = (tuple(devices), tuple(tasks), work, options, Path(folder), os.getpid(), n_threads)
        _run(Job(*told, held()))  # ranks live on for a moment where this process is killed


def _run(job: Job) -> None:
    """Start all ranks, and return when they are done; raise what the first that failed told."""
    from torch import multiprocessing as processes

    records = processes.get_context("spawn").Queue()
    with _listening(records):
        ranks = processes.spawn(_rank, (job, records), nprocs=len(job.devices), join=False)
        try:
            while not ranks.join():
                pass
        except (processes.ProcessRaisedException, processes.ProcessExitedException):
            told = _told(job.folder) or _killed([process.exitcode for process in ranks.processes])
            if told is None:
                raise
            raise told from None


def _told(folder: Path) -> Exception | None:
    """Return what the first rank that failed told of it, for the user."""
    for path in sorted(folder.glob("error-*.json")):
        error = json.loads(path.read_text(encoding="utf-8"))
        return (MemoryError if error["of_memory"] else ValueError)(error["text"])
    return None


def _killed(exit_codes: Sequence[int | None]) -> Exception | None:
    """Return an error where a rank was killed; the others are then ended by SIGTERM."""
    for rank, code in enumerate(exit_codes):
        if code == -signal.SIGKILL:
            return OSError(
                f"process {rank + 1} of {len(exit_codes)} was killed; look for a lack of RAM, and "
                "run again: training goes on from its checkpoint"
            )
    return None


def _rank(rank: int, job: Job, records: Any) -> None:
    """Train as one of the ranks."""
    threading.Thread(target=_end_with, args=(job.parent,), daemon=True).start()
    level, handlers = "INFO" if rank == 0 else "WARNING", [QueueHandler(records)]
    logging.basicConfig(level=level, format="%(message)s", handlers=handlers, force=True)
    device, n_ranks = job.devices[rank], len(job.devices)
    torch.set_num_threads(job.n_threads)
    try:
        with _group(job.folder / "meeting", rank, n_ranks, device):
            job.work(job.tasks, device=device, rank=rank, n_ranks=n_ranks, **job.options)
    except Exception as error:
        of_memory = out_of_memory(error, "") is not None
        if of_memory or isinstance(error, (ValueError, OSError)):
            # Before the others see this rank go, whose errors then say nothing.
            write_json(
                job.folder / f"error-{rank}.json", {"of_memory": of_memory, "text": str(error)}
            )
        raise


@contextmanager
def _group(meeting: Path, rank: int, n_ranks: int, device: str) -> Iterator[None]:
    """Make torch's default process group of all ranks."""
    if "lo" in (name for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # whatever the host's name resolves to
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=n_ranks,
        timeout=PATIENCE,
    )
    yield  # where it raises, peers may wait inside a collective: the process ends without a word
    torch.distributed.destroy_process_group()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, as after kill -9."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)


@contextmanager
def _listening(records: Any) -> Iterator[None]:
    """Log here what ranks log."""
    listener = QueueListener(records, _Here())
    listener.start()
    try:
        yield
    finally:
        listener.stop()


class _Here(logging.Handler):
    """Hands records to the loggers of this process."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger(record.name).handle(record)
