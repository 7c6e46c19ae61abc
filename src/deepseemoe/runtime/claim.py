"""One process at a time makes an output, and one workflow at a time a run, whoever started them.

Snakemake's own lock is of one working directory, stays after kill -9, and does not know of jobs
that outlive it. These are locks of the kernel on bytes of two files, `<results>/{run}/.locks/jobs`
and `workflow`: they end with the process that holds them, however it ends, and no child holds them,
so that a killed job never blocks its successor. Files are never removed: to remove one that another
process is about to lock lets two in. Who holds a lock stands in the file, and is wiped when it is
let go, so that finished runs are equal to the byte. On a file system without locks nothing is held.

Standard library only: the Snakefile asks for it.
"""

import atexit
import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepseemoe.runtime.lock_file import LockFile

logger = logging.getLogger(__name__)

FOLDER = ".locks"
WORKFLOW = "DEEPSEEMOE_WORKFLOW"
"""Environment variable: which workflow started a job, in the words of its note."""

PROCESS = "DEEPSEEMOE_WORKFLOW_PROCESS"
"""Environment variable: the number of that workflow's process, and its machine."""

MOST_NOTED = 64
"""Outputs of one job that tell who makes them; all of them are locked."""

LOOK_SECONDS = 0.5


def hold_workflow(folder: Path) -> None:
    """Be the only workflow that makes the run in `folder`, until this process ends.

    Raises ValueError where another one does, OSError where nothing can be written.
    """
    file = LockFile(folder / FOLDER / "workflow")
    if file.lock([_KEY]) is not None:
        other = file.note(_KEY) or "another process"
        file.close()
        raise ValueError(
            f"{folder}: another workflow makes this run ({other}); wait for it or end it, or give "
            "this one another `name`"
        )
    file.wipe()
    os.environ[WORKFLOW] = str(file.write([_KEY]))
    os.environ[PROCESS] = f"{os.getpid()}@{socket.gethostname()}"
    atexit.register(file.close)
    jobs = LockFile(folder / FOLDER / "jobs")
    jobs.tidy()
    jobs.close()


def is_orphan() -> bool:
    """Return whether the workflow that started this job has ended.

    Then nobody notes that the job did, and the next workflow makes its outputs again. Jobs of SLURM
    have a Snakemake of their own, which does.
    """
    number, _, host = os.environ.get(PROCESS, "").partition("@")
    if not number or host != socket.gethostname() or "SLURM_JOB_ID" in os.environ:
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # alive, and another user's
        pass
    return False


@contextmanager
def claimed(job: Any) -> Iterator[bool]:
    """Be the only process that makes the outputs of a job; yield whether they are still to be made.

    Where another process makes one of them, as a job that outlived its workflow, wait for its end.
    They are made already where that one did the very same work. Raises OSError where nothing can be
    written, ValueError where another workflow has taken over.
    """
    outputs = [str(path) for path in job.output]
    folder = run_folder(job)
    if folder is None:
        yield True
        return
    file = LockFile(folder / FOLDER / "jobs")
    try:
        # All jobs lock in one order, so none waits for one that waits for it.
        keys = sorted(hashlib.sha256(p.encode()).hexdigest()[:16] for p in _named(outputs, folder))
        work = _work(job)
        other = _wait(file, keys, lambda: _check_workflow(folder), folder)
        file.write(keys[:MOST_NOTED], rule=job.rule, work=work)
        is_made = other == work and all(map(os.path.exists, outputs))
        if is_made:
            logger.info("that process has made all of it, so nothing is left to be done")
        yield not is_made
    finally:
        file.close()


def run_folder(job: Any) -> Path | None:
    """Return the folder of the run that a job writes to; None where it has no outputs."""
    if not job.output:
        return None
    first = Path(str(job.output[0]))
    # Rules whose files are named for the one run have no wildcards.
    run = getattr(job.wildcards, "run", None) or job.config.get("name", "tiny")
    named = Path((job.config.get("pathvars") or {}).get("results", "results"), run)
    if first.is_relative_to(named):
        return named
    return next((p for p in reversed(first.parents) if p.name == run), first.parent)


_KEY = "0" * 16
"""Of the one lock in the file of workflows."""


def _named(outputs: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield outputs by their places in the run, so that the way to the folder does not matter."""
    return (os.path.relpath(path, folder) for path in outputs)


def _work(job: Any) -> str:
    """Return a name for what a job does: equal for equal rules, parameters and inputs."""
    inputs = [(str(p), *_state(str(p))) for p in job.input]
    parts = [job.rule, list(map(str, job.output)), inputs, dict(job.params.items())]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _state(path: str) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns, status.st_size


def _wait(
    file: LockFile, keys: Sequence[str], check: Callable[[], None], folder: Path
) -> str | None:
    """Wait until all keys are locked; return what the last other holder did, if known."""
    told, work = None, None
    check()
    while (key := file.lock(keys)) is not None:
        note = file.note(key)
        work = note.work if note else None
        who = str(note or "another process")
        if who != told:
            told = who
            logger.info("%s: its outputs are being made by %s; waiting for its end", folder, who)
        time.sleep(LOOK_SECONDS)
        check()
    return work


def _check_workflow(folder: Path) -> None:
    """Raise ValueError where the workflow that started this job has ended and another has begun.

    That one may have ended too, and wiped its note; the note of a killed one stays until then.
    """
    own, path = os.environ.get(WORKFLOW), folder / FOLDER / "workflow"
    if own is None or not path.exists():
        return
    file = LockFile(path)
    try:
        current = file.note(_KEY)
    finally:
        file.close()
    if str(current) != own:
        raise ValueError(
            f"{folder}: the workflow that started this job has ended ({own}), and another has "
            "taken over; nothing is done"
        )
