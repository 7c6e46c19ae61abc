"""Which features are described, the most valuable first: a budget ends where it hurts least.

First the features that the map ties to an expert with all kinds of evidence (tier A), then B, then
C, then the others; within a tier those that fire most often.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from deepseemoe.config import LabelsConfig
from deepseemoe.runtime.tables import read_table

TIERS = ("A", "B", "C", "")


class Valued(NamedTuple):
    """Features to describe, the most valuable first; (F,) each."""

    features: npt.NDArray[np.int64]
    n_active: npt.NDArray[np.int64]
    tiers: list[str]
    """Best tier of each feature's pairs: A, B, C or none"""


def by_value(density: Path, reads: Path | None, config: LabelsConfig) -> Valued:
    """Return the features that fire often enough, at most `config.max_features` of them.

    Without `reads`, the map of features and experts, how often they fire decides alone.
    """
    table = read_table(density, ["feature", "n_active"])
    feature, n_active = table["feature"].to_numpy(), table["n_active"].to_numpy()
    best = _best_tiers(reads, len(feature)) if reads else np.full(len(feature), len(TIERS) - 1)
    order = np.lexsort((feature, -n_active, best))
    order = order[n_active[order] >= config.min_activations][: config.max_features]
    tiers = [TIERS[place] for place in best[order]]
    return Valued(feature[order].astype(np.int64), n_active[order].astype(np.int64), tiers)


def _best_tiers(reads: Path, n_features: int) -> npt.NDArray[np.int64]:
    """Return (F,): the place in TIERS of the best tier of each feature's pairs."""
    pairs = read_table(reads, ["feature", "tier"])
    place = pc.index_in(pairs["tier"], pa.array(TIERS)).to_numpy()
    best = np.full(n_features, len(TIERS) - 1)
    np.minimum.at(best, pairs["feature"].to_numpy(), place)
    return best
