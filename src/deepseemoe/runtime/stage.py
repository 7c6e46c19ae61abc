"""Running one stage under Snakemake: its log file, its threads, its errors."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from safetensors import SafetensorError

logger = logging.getLogger(__name__)

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def run_stage(main: Callable[[Any], None], job: Any) -> None:
    """Call `main(job)`, logging to the rule's log file and to stderr; exit 1 where it raises.

    A ValueError or an OSError is for the user: one line on stderr, the traceback in the log file.
    So is safetensors' own error, which is neither: damaged weights, or a disk that is full.
    """
    _limit_threads(job.threads)
    logging.basicConfig(level="INFO", format=LINE, handlers=_handlers(job), force=True)
    logger.setLevel("DEBUG")
    try:
        main(job)
    except (ValueError, OSError, SafetensorError) as error:
        logger.error("rule %s: %s", job.rule, error)
        logger.debug("where it happened:", exc_info=True)
        sys.exit(1)
    except Exception:
        logger.exception("rule %s failed", job.rule)
        sys.exit(1)


def device(job: Any) -> str:
    """Return `cuda` where the scheduler granted the job a GPU, else `cpu`."""
    return "cuda" if job.resources.get("gpu", 0) else "cpu"


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


def _handlers(job: Any) -> list[logging.Handler]:
    """Return the console, from INFO on, and the rule's log file, which also takes tracebacks."""
    console = logging.StreamHandler()
    console.setLevel("INFO")
    files = [logging.FileHandler(job.log[0], mode="w")] if job.log else []
    return [console, *files]
