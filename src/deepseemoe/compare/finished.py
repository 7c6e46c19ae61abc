"""A finished run, as the comparison reads it: only tables that stand in its folder."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from deepseemoe.config.compare import ComparedRun
from deepseemoe.config.files import read_file
from deepseemoe.runtime import checksums
from deepseemoe.runtime.tables import read_table

STAGES = ("routing", "experts", "labels")
"""Stages whose tables are compared, so that their formats must agree."""


class Map(NamedTuple):
    """One map of a run: its dictionary and window, and the folder."""

    dictionary: str
    window: str
    folder: Path


class Finished(NamedTuple):
    """A run that can be compared."""

    label: str
    folder: Path
    experts: str | None
    expert_domains: tuple[str, ...]
    config: dict[str, Any]

    @property
    def maps(self) -> tuple[Map, ...]:
        """Its maps of reads, by dictionary and window."""
        return tuple(
            Map(name, window, self.folder / "experts" / name / window)
            for name in self.config["dictionaries"]
            for window in self.config["windows"]
        )

    def table(self, path: str | Path, *columns: str) -> pa.Table:
        """Return columns of a table; raise ValueError where it lacks one."""
        checksums.check(self.folder, [self.folder / path])
        table = read_table(self.folder / path)
        missing = [name for name in columns if name not in table.column_names]
        if missing:
            raise ValueError(
                f"{self.folder / path}: {', '.join(missing)} missing; an older version made it, so "
                "make that run again"
            )
        return table.select(list(columns))


def read_runs(entries: Sequence[ComparedRun], results: Path) -> tuple[Finished, ...]:
    """Return the runs; raise ValueError in one line where one is missing or not finished.

    Names are folders below `results`; what holds a slash is a folder itself.
    """
    if len(entries) < 2:
        raise ValueError(
            f"compare.runs names {len(entries)} runs; name two or more finished ones, as "
            "compare: {runs: [tiny, results/other]}"
        )
    runs = tuple(_read(entry, results) for entry in entries)
    for problem in _formats(runs):
        raise ValueError(problem)
    return runs


def _read(entry: ComparedRun, results: Path) -> Finished:
    folder = Path(entry.run) if "/" in entry.run else results / entry.run
    if not folder.is_dir():
        known = sorted(path.parent.name for path in results.glob("*/config.yaml"))
        told = f"; {results} has {', '.join(known)}" if known else ""
        raise ValueError(f"compare.runs: no such run as {folder}{told}")
    file = folder / "config.yaml"
    if not file.is_file():
        raise ValueError(f"{folder} is no finished run: it has no config.yaml")
    config = read_file(file)
    if not {"dictionaries", "windows"} <= {*config}:
        raise ValueError(f"{file}: is no configuration of a run; finish that run first")
    domains = entry.expert_domains or tuple(config.get("model", {}).get("expert_domains", ()))
    run = Finished(entry.label or folder.name, folder, entry.experts, domains, config)
    for path in _needed(run):
        if not (folder / path).is_file():
            raise ValueError(f"{folder} is not finished: {path} is missing; finish that run first")
    return run


def _needed(run: Finished) -> Iterator[str]:
    yield from (f"routing/{name}.parquet" for name in ("load", "domains", "vocabulary"))
    for one in run.maps:
        yield f"experts/{one.dictionary}/{one.window}/reads.parquet"


def _formats(runs: Sequence[Finished]) -> Iterator[str]:
    for stage in STAGES:
        found = {run.label: run.config.get(stage, {}).get("format") for run in runs}
        if len({*found.values()}) > 1:
            told = ", ".join(f"{label} has {number}" for label, number in found.items())
            yield f"runs were made with different formats of {stage}: {told}; make the older anew"
