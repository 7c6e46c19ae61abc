"""Running one stage under Snakemake: its log file, its threads, its errors."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from deepseemoe.runtime import checksums
from deepseemoe.runtime.caches import keep_compiled
from deepseemoe.runtime.checkpoint_paths import checkpoint_path, remove_checkpoint
from deepseemoe.runtime.claim import claimed, run_folder
from deepseemoe.runtime.devices import check_devices
from deepseemoe.runtime.lease import Lease, asked, leased
from deepseemoe.runtime.memory import out_of_memory
from deepseemoe.runtime.terminal import Printable

logger = logging.getLogger(__name__)

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def run_stage(main: Callable[[Any], None], job: Any) -> None:
    """Call `main(job)`, logging to the rule's log file and to stderr; exit 1 where it raises.

    A ValueError or an OSError is for the user: one line on stderr, the traceback in the log file.
    So are safetensors' own error, which is neither (damaged weights, or a disk that is full), and
    a lack of memory, whoever notices it, and Ctrl-C, which exits 130.
    """
    _limit_threads(job.threads)
    keep_compiled()
    handlers = _handlers(job)
    for handler in handlers:
        handler.setFormatter(Printable(LINE))
    logging.basicConfig(level="INFO", handlers=handlers, force=True)
    logger.setLevel("DEBUG")
    try:
        with claimed(job) as is_needed:
            if is_needed:
                _make(main, job)
            else:
                _tidy(job)
    except (ValueError, OSError, SafetensorError) as error:
        logger.error("rule %s: %s", job.rule, error)
        logger.debug("where it happened:", exc_info=True)
        sys.exit(1)
    except KeyboardInterrupt:  # Ctrl-C reaches every process of a terminal
        logger.error("rule %s: interrupted; run again, what was finished is kept", job.rule)
        logger.debug("where it happened:", exc_info=True)
        sys.exit(130)
    except Exception as error:
        told = out_of_memory(error, job.rule)
        logger.log(logging.ERROR, "rule %s: %s", job.rule, told or "failed", exc_info=not told)
        if told:
            logger.debug("where it happened:", exc_info=True)
        sys.exit(1)


def _make(main: Callable[[Any], None], job: Any) -> None:
    """Call `main(job)` on inputs that are as they were written, and note what it wrote."""
    folder = run_folder(job)
    if folder is None:
        _compute(main, job)
        return
    outputs = [Path(str(path)) for path in job.output]
    checksums.check(folder, [Path(str(path)) for path in job.input])
    checksums.forget(folder, outputs)
    _compute(main, job)
    checksums.write(folder, outputs)


def _tidy(job: Any) -> None:
    """Remove the checkpoints that an orphan kept beside what it made, now that it is taken over."""
    for folder in {Path(str(path)).parent for path in job.output} - {run_folder(job)}:
        remove_checkpoint(checkpoint_path(folder))


def _compute(main: Callable[[Any], None], job: Any) -> None:
    """Call `main(job)` while the job holds its GPUs, which `devices` then tells of."""
    with leased(job) as lease:
        _LEASES[id(job)] = lease
        try:
            main(job)
        finally:
            del _LEASES[id(job)]


def devices(job: Any) -> tuple[str, ...]:
    """Return the GPUs that the job leased, as cuda:0 and so on, or else `cpu`.

    Raises ValueError where torch sees fewer than were leased.
    """
    names = _lease_of(job).devices
    check_devices(names)
    return names


def ranks(job: Any) -> tuple[str, ...]:
    """Return the device of each process of a stage that may have several: GPUs have one each.

    On CPUs there are as many as the rule's parameter `processes` says.
    """
    names = devices(job)
    return names * job.params.processes if names == ("cpu",) else names


def device(job: Any) -> str:
    """Return the device of a stage that computes on one, as `devices` does."""
    return devices(job)[0]


def shared(job: Any, *, model_on_gpu: bool, own_on_gpu: bool) -> tuple[Sequence[str], str]:
    """Return the model's devices and the trainer's, of a job of two stages; checked as `devices`.

    Where there are fewer GPUs than they ask for, they share.
    """
    lease = _lease_of(job)
    check_devices(lease.devices)
    model = lease.of_stage(0) if model_on_gpu else ("cpu",)
    own = lease.of_stage(int(model_on_gpu))[-1] if own_on_gpu else "cpu"
    return model, own


_LEASES: dict[int, Lease] = {}
"""The leases of jobs that run, by the identity of the job."""


def _lease_of(job: Any) -> Lease:
    assert id(job) in _LEASES or not asked(job), "a job takes its GPUs in run_stage"
    return _LEASES.get(id(job), Lease())


def _limit_threads(threads: int) -> None:
    """Keep numerical libraries to the threads of the rule; they read these when first imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    # Threads that wait for one another spin by default; beside another busy process that costs a
    # factor of 15 (537 against 8,300 tokens/s of train_model on 2 cores), with this one of 2.5;
    # alone it costs nothing (8,900).
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if not sys.stderr.isatty():  # bars are for people; a log would keep each of their states
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _handlers(job: Any) -> list[logging.Handler]:
    """Return the console, from INFO on, and the rule's log file, which also takes tracebacks."""
    console = logging.StreamHandler()
    console.setLevel("INFO")
    if not job.log:
        return [console]
    try:  # names of files and labels have letters that the locale of a cluster may lack
        return [console, logging.FileHandler(job.log[0], mode="w", encoding="utf-8")]
    except OSError:  # of a disk that is full; the job tells so itself, where it matters
        return [console]
