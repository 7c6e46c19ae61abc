"""The map of one dictionary, as figures and the page read it: kept pairs, labels, sureness."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from deepseemoe.report.names import Trained
from deepseemoe.report.tables import RunTables, Table, count_rows, read_columns, read_kept

KEPT_COLUMNS = (
    "layer", "expert", "feature", "p_e_given_f", "p_e", "lift", "lor", "lor_lo", "lor_hi", "q",
    "w_map", "causal_dp", "causal_dp_lo", "causal_dp_hi", "is_token", "tier", "rank",
)  # fmt: skip


class Map(NamedTuple):
    """The kept pairs of one dictionary, with how many were tested and what features are called."""

    kept: Table
    n_tested: int
    labels: Mapping[int, str]
    n_experts: int


def read_map(tables: RunTables, one: Trained) -> Map:
    """Return the map of a dictionary on a window."""
    path = tables.at("experts", one, "reads.parquet")
    experts = tables.read("routing/load.parquet", "expert")["expert"]
    labels = read_labels(tables, one)
    return Map(read_kept(path, *KEPT_COLUMNS), count_rows(path), labels, int(experts.max()) + 1)


def read_labels(tables: RunTables, one: Trained) -> dict[int, str]:
    """Return the label of each labelled feature."""
    table = read_columns(tables.at("labels", one, "features.parquet"), "feature", "label")
    return dict(zip(table["feature"].tolist(), table["label"].tolist(), strict=True))


def sureness(kept: Table) -> np.ndarray:
    """Return how far each interval of the log odds ratio stays from 0, nats."""
    return np.maximum(np.maximum(kept["lor_lo"], -kept["lor_hi"]), 0)


def strongest_features(kept: Table, n: int) -> dict[int, float]:
    """Return the `n` features with the surest pairs and how sure those are, surest first."""
    sure = sureness(kept)
    best: dict[int, float] = {}
    for row in np.argsort(-sure, kind="stable"):
        best.setdefault(int(kept["feature"][row]), float(sure[row]))
        if len(best) == n:
            break
    return best
