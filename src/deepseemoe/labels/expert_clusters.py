"""How many different things call an expert: clusters among its features, by decoder direction.

Average linkage of the cosines of decoder rows, all layers of a feature in one row; groups join
while their mean cosine is above MIN_COSINE. Of random pairs of features in the embedded run's
crosscoders 7 in 10,000 are closer than that, so that 20 random features make 19.8 to 20 clusters;
its transcoders' directions are more alike (17 to 18). What 20 random features make is therefore
counted in the same dictionary and told beside. Published: 10.8 and 11.3 clusters of 20 features an
expert (RouterInterp, arXiv 2610.11775), by a method that the paper's summary does not fix.

Axes: F features, C numbers of a decoder row.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from scipy.cluster.hierarchy import fcluster, linkage

MIN_COSINE = 0.4

N_POOL = 512
"""Features that chance is drawn from, at most."""

N_DRAWS = 20
"""Sets of random features that the number by chance is the mean of."""


class Clusters:
    """Counts clusters among features of one saved dictionary, and by chance among others.

    `weights` is its safetensors file, of which rows are read when asked for, in normalised units;
    `pool` the features that are in use, of which chance is drawn.
    """

    def __init__(self, weights: Path, pool: np.ndarray, random: np.random.Generator):
        self._decoder = safe_open(weights, framework="np").get_slice("decoder")
        drawn = np.sort(random.choice(pool, min(len(pool), N_POOL), replace=False))
        self._drawn_FC, self._random = self._rows(drawn.tolist()), random
        self._chance: dict[int, float | None] = {}

    def of(self, features: Sequence[int]) -> dict[str, Any]:
        """Return the three columns of experts.parquet that tell of clusters."""
        n = len(features)
        if n not in self._chance:
            self._chance[n] = clusters_by_chance(self._drawn_FC, n, self._random)
        return {
            "n_features": n,
            "n_clusters": count_clusters(self._rows(features)),
            "clusters_by_chance": self._chance[n],
        }

    def _rows(self, features: Sequence[int]) -> np.ndarray:
        """Return the decoder rows of some features, float64 (F, C)."""
        rows = [np.ravel(self._decoder[feature : feature + 1]) for feature in features]
        return np.stack(rows).astype(np.float64) if rows else np.zeros((0, 1))


def count_clusters(rows_FC: np.ndarray) -> int:
    """Return the number of clusters among the features' directions; a row of zeros is its own."""
    if len(rows_FC) < 2:
        return len(rows_FC)
    norm_F = np.linalg.norm(rows_FC, axis=1, keepdims=True)
    unit_FC = rows_FC / np.where(norm_F > 0, norm_F, 1)
    cosine_FF = unit_FC @ unit_FC.T
    distances = np.maximum(1 - cosine_FF[np.triu_indices(len(rows_FC), 1)], 0)
    tree = linkage(distances, "average")
    return int(fcluster(tree, 1 - MIN_COSINE, "distance").max())


def clusters_by_chance(rows_FC: np.ndarray, n: int, random: np.random.Generator) -> float | None:
    """Return the mean number of clusters among n random features of (F, C); None below n."""
    if n < 1 or n > len(rows_FC):
        return None
    draws = (random.choice(len(rows_FC), n, replace=False) for _ in range(N_DRAWS))
    return float(np.mean([count_clusters(rows_FC[drawn]) for drawn in draws]))
