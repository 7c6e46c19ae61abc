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

import numpy as np
from safetensors import safe_open
from scipy.cluster.hierarchy import fcluster, linkage

MIN_COSINE = 0.4

N_DRAWS = 20
"""Sets of random features that the number by chance is the mean of."""


class DecoderRows:
    """Decoder rows of a saved dictionary, read when asked for; units are the normalised ones."""

    def __init__(self, weights: Path):
        self._file = safe_open(weights, framework="np")
        self._decoder = self._file.get_slice("decoder")
        self.d_dict = int(self._decoder.get_shape()[0])

    def of(self, features: Sequence[int]) -> np.ndarray:
        """Return the rows of some features, float64 (F, C)."""
        rows = [np.asarray(self._decoder[feature : feature + 1]) for feature in features]
        return np.concatenate(rows).astype(np.float64).reshape(len(features), -1)


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
