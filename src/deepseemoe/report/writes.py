"""What experts write: the features whose directions their outputs go along."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from deepseemoe.names import ExpertId, FeatureId
from deepseemoe.report.names import Trained
from deepseemoe.report.tables import RunTables, read_columns, select
from deepseemoe.report.views import FeatureKey, labels_of

COLUMNS = ("layer", "expert", "feature", "contrast", "contrast_lo", "contrast_hi")
N_WRITES = 3


class Written(NamedTuple):
    """A feature that an expert writes: its contrast, residual units, with its interval.

    The contrast is how much further the expert's output goes along the feature's decoder direction
    on tokens where the feature fires than where it is silent.
    """

    id: str
    label: str
    contrast: float
    lo: float
    hi: float


def strongest_writes(
    tables: RunTables, experts: Collection[ExpertId]
) -> dict[ExpertId, list[Written]]:
    """Return the features that each expert writes most surely, of all maps of writes in the run."""
    found: dict[ExpertId, list[tuple[FeatureKey, float, float, float]]] = {}
    for one in tables.trained:
        for expert, rows in _rows(tables, one, experts).items():
            found.setdefault(expert, []).extend(rows)
    best = {
        expert: sorted(rows, key=lambda row: -row[2])[:N_WRITES] for expert, rows in found.items()
    }
    labels = labels_of(tables, {row[0] for rows in best.values() for row in rows})
    return {
        expert: [
            Written(str(FeatureId(key[0].window, key[1])), labels[key], *numbers)
            for key, *numbers in rows
        ]
        for expert, rows in best.items()
    }


def _rows(tables: RunTables, one: Trained, experts: Collection[ExpertId]) -> dict:
    """Return key, contrast, lower and upper end of the surest writes of each expert in one map."""
    is_sure = pc.field("contrast_lo") > 0
    table = read_columns(tables.at("experts", one, "writes.parquet"), *COLUMNS, where=is_sure)
    found = {}
    for expert in experts:
        mine = select(table, (table["layer"] == expert.layer) & (table["expert"] == expert.expert))
        order = np.argsort(-mine["contrast_lo"], kind="stable")[:N_WRITES]
        found[expert] = [
            ((one, int(mine["feature"][row])), *(float(mine[name][row]) for name in COLUMNS[3:]))
            for row in order.tolist()
        ]
    return found
