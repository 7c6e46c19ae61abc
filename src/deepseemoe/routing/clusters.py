"""k-means and the agreement of two partitions, as small as the comparison of centroids needs.

Axes: T tokens, D d_model, C clusters.
"""

import numpy as np
import scipy.sparse as sp

from deepseemoe.runtime.seeds import generator

MAX_STEPS, N_STARTS = 30, 5


def k_means(inputs_TD: np.ndarray, n_clusters: int, *, seed: int) -> np.ndarray:
    """Return the cluster of each input (T,): Lloyd's steps from k-means++, the best of five.

    Inputs are centred and in float32: clusters do not hang on the last digits.
    """
    inputs_TD = (inputs_TD - inputs_TD.mean(0)).astype(np.float32)
    rng = generator(seed, "k-means")
    tries = [_lloyd(inputs_TD, _spread(inputs_TD, n_clusters, rng)) for _ in range(N_STARTS)]
    return min(tries, key=lambda one: one[1])[0]


def nearest(inputs_TD: np.ndarray, centres_CD: np.ndarray) -> np.ndarray:
    """Return the nearest centre of each input (T,); a centre of NaN is nearest to none."""
    return _distances(inputs_TD, centres_CD).argmin(1)


def adjusted_rand(first_T: np.ndarray, second_T: np.ndarray) -> float:
    """Return the adjusted Rand index of two partitions: 1 if they are one, 0 by chance.

    Hubert and Arabie (1985), equation 5; 1 where both have one part, or one for each token.
    """
    first, second = (np.unique(part, return_inverse=True)[1] for part in (first_T, second_T))
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1)
    both, of_first, of_second, all_pairs = (
        float((counts * (counts - 1) / 2).sum())
        for counts in (table, table.sum(1), table.sum(0), table.sum())
    )
    chance = of_first * of_second / all_pairs if all_pairs else 0.0
    most = (of_first + of_second) / 2
    return 1.0 if most == chance else (both - chance) / (most - chance)


def _spread(inputs_TD: np.ndarray, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Return centres that lie apart: each is drawn with the squared distance to the others."""
    squares_T = (inputs_TD**2).sum(1, dtype=np.float64)
    centres_CD = inputs_TD[[rng.integers(len(inputs_TD))]]
    nearest_T = np.full(len(inputs_TD), np.inf)
    while len(centres_CD) < n_clusters:
        # Rounding may leave an input that is a centre a little below no distance.
        to_last_T = squares_T + _distances(inputs_TD, centres_CD[-1:])[:, 0]
        nearest_T = np.minimum(nearest_T, np.maximum(to_last_T, 0))
        total = nearest_T.sum()
        share_T = nearest_T / total if total > 0 else None
        drawn = rng.choice(len(inputs_TD), p=share_T)
        centres_CD = np.vstack([centres_CD, inputs_TD[drawn]])
    return centres_CD


def _lloyd(inputs_TD: np.ndarray, centres_CD: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the clusters that Lloyd's steps end in, and the sum of squared distances.

    The sum lacks the inputs' own squares, which are the same for all clusters.
    """
    cluster_T, place_T = np.full(len(inputs_TD), -1), np.arange(len(inputs_TD))
    for _ in range(MAX_STEPS):
        distance_TC = _distances(inputs_TD, centres_CD)
        before_T, cluster_T = cluster_T, distance_TC.argmin(1)
        if np.array_equal(before_T, cluster_T):
            break
        sizes_C = np.bincount(cluster_T, minlength=len(centres_CD))
        ones = np.ones(len(inputs_TD), inputs_TD.dtype)
        members_CT = sp.csr_array((ones, (cluster_T, place_T)), (len(centres_CD), len(inputs_TD)))
        filled = sizes_C > 0  # an empty cluster keeps its centre
        centres_CD[filled] = (members_CT @ inputs_TD)[filled] / sizes_C[filled, None]
    return cluster_T, float(distance_TC.min(1).sum(dtype=np.float64))


def _distances(inputs_TD: np.ndarray, centres_CD: np.ndarray) -> np.ndarray:
    """Return squared distances (T, C) less the inputs' own squares; infinite to centres of NaN."""
    distance_TC = (centres_CD**2).sum(1) - 2 * inputs_TD @ centres_CD.T
    return np.where(np.isnan(distance_TC), np.inf, distance_TC)
