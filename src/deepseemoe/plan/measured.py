"""Speeds of a run that is done, or under way on this machine: its logs, else its benchmarks.

A log line tells the rate without the loading of the model; a benchmark file the seconds of a whole
job, as Snakemake writes it.
"""

import csv
import re
from pathlib import Path
from statistics import median
from typing import NamedTuple

from deepseemoe.config import RunConfig
from deepseemoe.names import shard_name
from deepseemoe.plan.stores import shard_sizes

_RATE = re.compile(r"\d+ of \d+ tokens, (\d+) tokens/s")


class Measured(NamedTuple):
    """A speed in tokens a second, and the files that it was read from."""

    tokens_per_second: float
    source: str


def capture_speed(run: RunConfig) -> Measured | None:
    """Return the median speed of the shards that `cache_activations` has made, if any."""
    found = logged(run, "cache_activations/*.log")
    if found:
        return found
    folder = _folder(run, "benchmarks") / "cache_activations"
    if not folder.is_dir():  # a plan that tries changes asks thousands of times
        return None
    rates = [
        n_tokens / seconds
        for split in ("train", "select", "test")
        for shard, n_tokens in enumerate(shard_sizes(run, split))
        if (seconds := _seconds(folder / f"{split}-{shard_name(shard)}.tsv"))
    ]
    return Measured(median(rates), f"{folder}/*.tsv") if rates else None


def logged(run: RunConfig, pattern: str) -> Measured | None:
    """Return the median over log files of the last rate that each tells."""
    folder = _folder(run, "logs")
    rates = []
    for path in sorted(folder.glob(pattern)):
        told = _RATE.findall(path.read_text(encoding="utf-8", errors="replace"))
        rates += [float(told[-1])] if told and float(told[-1]) else []
    return Measured(median(rates), str(folder / pattern)) if rates else None


def _folder(run: RunConfig, kind: str) -> Path:
    return Path(run.pathvars.get(kind, kind)) / run.name


def _seconds(path: Path) -> float | None:
    """Return the mean seconds in a benchmark file of Snakemake; None where there is none."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8") as file:
        rows = [float(row["s"]) for row in csv.DictReader(file, delimiter="\t")]
    return sum(rows) / len(rows) if rows else None
