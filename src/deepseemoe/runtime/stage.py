"""Running one stage under Snakemake: its log file, its threads, and an error that names the rule."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def run_stage(main: Callable[[Any], None], job: Any) -> None:
    """Call `main(job)`, logging to the rule's log file and to stderr; exit 1 where it raises.

    A ValueError or an OSError is for the user: stderr gets one line, the log file the traceback too.
    """
    _limit_threads(job.threads)
    console = logging.StreamHandler()
    handlers: list[logging.Handler] = [console]
    if job.log:
        handlers.append(logging.FileHandler(job.log[0], mode="w"))
    logging.basicConfig(level="INFO", format=LINE, handlers=handlers, force=True)
    try:
        main(job)
    except Exception as error:
        console.addFilter(_drop_traceback if isinstance(error, (ValueError, OSError)) else _keep)
        logging.getLogger("deepseemoe").error("rule %s: %s", job.rule, error, exc_info=True)
        sys.exit(1)


def device(job: Any) -> str:
    """Return `cuda` where the scheduler granted the job a GPU, else `cpu`."""
    return "cuda" if job.resources.get("gpu", 0) else "cpu"


def _limit_threads(threads: int) -> None:
    """Keep numerical libraries to the threads of the rule; they read these when first imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def _drop_traceback(record: logging.LogRecord) -> logging.LogRecord:
    """Return the record without its traceback, for the console."""
    copy = logging.makeLogRecord(record.__dict__)
    copy.exc_info = copy.exc_text = None
    return copy


def _keep(record: logging.LogRecord) -> logging.LogRecord:
    return record
