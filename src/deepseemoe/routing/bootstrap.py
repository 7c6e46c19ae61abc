"""Draws of documents: tokens of one document are alike, so whole documents are what is drawn.

Poisson(1) weights, the bootstrap of streams (Hanley and MacGibbon 2006): they hang on the document
alone, so that one that goes on in the next shard has the same weights there. Tables of pairs of
experts have so many cells that groups of documents are drawn in place of documents: document d is
in group d mod `N_GROUPS`, and a group is as independent of the others as a document is.

Axes: T tokens, D documents, G groups, B draws (the first is the data itself), E experts.
"""

import numpy as np

from deepseemoe.routing.information import INTERVAL
from deepseemoe.runtime.seeds import generator

N_GROUPS, N_GROUP_DRAWS = 64, 400
PART_COLUMNS = 1 << 14
"""Columns whose draws are held at once; 400 draws of so many take 52 MB."""


def bootstrap_weights(documents: np.ndarray, n_draws: int, seed: int) -> np.ndarray:
    """Return how often each document is drawn, (D, 1 + n_draws), with ones in front."""
    weights = np.ones((documents.size, 1 + n_draws), np.uint8)
    for place, document in enumerate(documents.tolist()):
        weights[place, 1:] = generator(seed, "bootstrap", document).poisson(1.0, n_draws)
    return weights


def weighted_sums(counts_DE: np.ndarray, draws_DB: np.ndarray) -> np.ndarray:
    """Return the sum over documents in each draw (B, E)."""
    return draws_DB.T.astype(np.float64) @ counts_DE


def interval_of(draws_BE: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the quantiles of all draws but the first; NaN where one is NaN or there are none."""
    if len(draws_BE) < 3:
        return tuple(np.full((2, *draws_BE.shape[1:]), np.nan))
    return tuple(np.quantile(draws_BE[1:], INTERVAL, axis=0))


def group_draws(tokens_G: np.ndarray, seed: int, n_draws: int = N_GROUP_DRAWS) -> np.ndarray:
    """Return how often each group is drawn (B, G); no draws where fewer than two have tokens."""
    if (tokens_G > 0).sum() < 2:
        return np.zeros((0, tokens_G.size))
    weights_BG = generator(seed, "bootstrap", "groups").poisson(1.0, (n_draws, tokens_G.size))
    return weights_BG[(weights_BG @ tokens_G) > 0].astype(np.float64)


def lift_intervals(
    pairs_GX: np.ndarray,
    first_GX: np.ndarray,
    second_GX: np.ndarray,
    tokens_G: np.ndarray,
    *,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval of n_xy n / (n_x n_y) for many pairs (X,), drawing groups of documents.

    NaN where fewer than two groups have tokens.
    """
    draws_BG = group_draws(tokens_G, seed)
    low, high = np.full((2, pairs_GX.shape[1]), np.nan)
    if not len(draws_BG):
        return low, high
    n_B1 = draws_BG @ tokens_G[:, None]
    for start in range(0, low.size, PART_COLUMNS):
        part = slice(start, start + PART_COLUMNS)
        both, first, second = (
            draws_BG @ counts_GX[:, part] for counts_GX in (pairs_GX, first_GX, second_GX)
        )
        # Divided one after the other: the product of two counts may be too large to be exact.
        known = (first > 0) & (second > 0)
        share = np.divide(both, first, np.ones_like(both), where=known)
        lift = np.divide(share * n_B1, second, np.ones_like(both), where=known)
        low[part], high[part] = np.quantile(lift, INTERVAL, axis=0)
    return low, high
