"""Where the tables of a run stand, and how they are read: by column name, with a clear error."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deepseemoe.report.names import Trained, trained_dictionaries
from deepseemoe.runtime.files import read_json
from deepseemoe.runtime.tables import whole_table

if TYPE_CHECKING:
    from deepseemoe.config import RunConfig

Table = Mapping[str, np.ndarray]
"""Columns of a table by name, equally long. Lists are arrays inside an object array."""

MAX_Q = 0.05
"""Pairs of a feature and an expert below this Benjamini-Hochberg q are called kept."""


@dataclass(frozen=True)
class RunTables:
    """The tables of one run, in the places that docs/architecture.md gives them.

    `root` is the folder of the run, `results/{run}`.
    """

    root: Path
    trained: tuple[Trained, ...]
    imported: frozenset[str] = frozenset()
    """Dictionaries without a training table."""

    @classmethod
    def of(cls, root: Path | str, run: "RunConfig") -> "RunTables":
        """Return the tables of `run`, whose folder is `root`."""
        imported = (name for name, entry in run.dictionaries.items() if entry.imported)
        every = trained_dictionaries(run)
        return cls(Path(root), every, frozenset(imported))

    @property
    def dictionaries(self) -> list[str]:
        """Names of the dictionaries, in order."""
        return list(dict.fromkeys(one.dictionary for one in self.trained))

    def at(self, stage: str, one: Trained, file: str) -> Path:
        """Return a file of a stage that has a folder for each dictionary and window."""
        return self.root / stage / one.dictionary / str(one.window) / file

    def read(self, path: str, *columns: str) -> Table:
        """Return columns of a table of the whole run, as `routing/load.parquet`."""
        return read_columns(self.root / path, *columns)


def read_columns(path: Path, *columns: str, where: pc.Expression | None = None) -> Table:
    """Return columns of a parquet table, optionally only the rows for which `where` holds.

    Integers with nulls become floats with NaN. Raises ValueError where a column is missing.
    """
    with whole_table(path):
        require(path, columns, pq.read_schema(path).names)
        table = pq.read_table(path, columns=list(columns), filters=where)
    return {name: table[name].to_numpy() for name in columns}


def read_kept(path: Path, *columns: str) -> Table:
    """Return columns of the pairs of `reads.parquet` that are kept, those with q < MAX_Q."""
    return read_columns(path, *columns, where=pc.field("q") < MAX_Q)


def count_rows(path: Path) -> int:
    """Return the number of rows of a parquet table."""
    return pq.read_metadata(path).num_rows


def read_values(path: Path, *keys: str) -> dict[str, Any]:
    """Return values of a JSON file; raise ValueError where a key is missing."""
    values = read_json(path)
    require(path, keys, values)
    return {key: values[key] for key in keys}


def require(path: Path, wanted: tuple[str, ...], found: Any) -> None:
    """Raise ValueError naming what `path` lacks of `wanted`."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(
            f"{path}: {', '.join(missing)} missing; found {', '.join(found)}; "
            "remake it with this version of the workflow (snakemake -R and its rule)"
        )


def select(table: Table, rows: np.ndarray) -> Table:
    """Return the rows that a mask or indices choose, of every column."""
    return {name: values[rows] for name, values in table.items()}
