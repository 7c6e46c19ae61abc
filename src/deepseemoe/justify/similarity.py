"""How alike layers are before anything is trained: a prior for the width of a window.

Linear CKA between layers falls with their distance; fitted as exp(-distance / ξ), layers within ξ
(to the nearest whole one) on either side are alike, so the prior is 2 ξ + 1.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepseemoe.dictionary.batches import open_stores
from deepseemoe.dictionary.site_names import site_names
from deepseemoe.justify.rows import Rows
from deepseemoe.names import Window


class Similarity(NamedTuple):
    """CKA between layers (L, L), its decay length in layers, and the width that it suggests."""

    cka_LL: NDArray[np.float64]
    decay_layers: float | None
    """None where CKA does not fall with distance, or there is one layer"""
    prior_width: int


def measure_similarity(layers: Window, stores: Sequence[Path], *, max_tokens: int) -> Similarity:
    """Return how alike the layers of the residual stream are on stores."""
    sites = site_names("resid_post", layers)
    rows = Rows(open_stores(stores, sites), max_tokens=max_tokens)
    return similarity_of(rows, layers)


def similarity_of(rows: Rows, layers: Window) -> Similarity:
    """Return how alike layers are over rows."""
    sites, depth = site_names("resid_post", layers), len(layers.layers)
    pairs = list(combinations(range(depth), 2)) + [(n, n) for n in range(depth)]
    total_LD: NDArray[np.float64] | float = 0.0
    crossed: dict[tuple[int, int], NDArray[np.float64] | float] = dict.fromkeys(pairs, 0.0)
    for _, x_TLD in rows.blocks(sites):
        x_LTD = x_TLD.double().numpy().swapaxes(0, 1)
        total_LD = total_LD + x_LTD.sum(1)
        for i, j in pairs:
            crossed[i, j] = crossed[i, j] + x_LTD[i].T @ x_LTD[j]
    mean_LD = total_LD / rows.n_valid
    size = {
        (i, j): float(np.linalg.norm(own / rows.n_valid - np.outer(mean_LD[i], mean_LD[j])))
        for (i, j), own in crossed.items()
    }
    cka_LL = np.eye(depth)
    for i, j in combinations(range(depth), 2):
        cka_LL[i, j] = cka_LL[j, i] = size[i, j] ** 2 / (size[i, i] * size[j, j])
    decay = decay_layers(cka_LL)
    prior = depth if decay is None else min(depth, 2 * round(decay) + 1)
    return Similarity(cka_LL, decay, prior)


def decay_layers(cka_LL: NDArray[np.float64]) -> float | None:
    """Return ξ of exp(-distance / ξ), fitted to the mean CKA at each distance."""
    depth = len(cka_LL)
    distance = np.arange(1, depth)
    fall = np.array([-np.log(np.diagonal(cka_LL, d).mean().clip(1e-12)) for d in distance])
    slope = float(distance @ fall / (distance @ distance)) if depth > 1 else 0.0
    return 1 / slope if slope > 0 else None
