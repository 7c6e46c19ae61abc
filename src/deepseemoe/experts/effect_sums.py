"""Means of changes over the firing tokens of features, with intervals clustered by document.

A change is a number for each firing token and expert: what removing a feature does to the choice
of the expert, and to its margin. With s and n a document's sum of changes and number of firing
tokens, the mean is sum s / sum n, and a document moves it by (s - mean * n) / sum n; the sums of
s^2, s * n and n^2 over documents give the sum of squares of that. Memory: six tables (F, E).

Axes: I firing tokens, F features, C kinds of change, E experts, G groups (feature, document).
"""

from typing import NamedTuple

import numpy as np

from deepseemoe.experts.statistics import clustered_interval, effective_clusters

CHANGES = ("dp", "dm")
"""Kinds of change: of being chosen, and of the margin."""


class Effects(NamedTuple):
    """Mean changes (F, E) with interval bounds, and of how many tokens (F,); NaN where of none.

    Bounds are NaN where the tokens are of one document.
    """

    n_F: np.ndarray
    dp: np.ndarray
    dp_lo: np.ndarray
    dp_hi: np.ndarray
    dm: np.ndarray
    dm_lo: np.ndarray
    dm_hi: np.ndarray

    @property
    def at_least_F(self) -> np.ndarray:
        """How large the largest change of choice of each feature is at least, by its bounds."""
        least_FE = np.maximum(self.dp_lo, -self.dp_hi)
        return np.nan_to_num(least_FE, nan=0.0).max(1, initial=0.0)


class EffectSums:
    """Add up changes in text order; a document may go on in the next call."""

    def __init__(self, n_features: int, n_experts: int):
        shape = n_features, len(CHANGES), n_experts
        self._sum, self._squares, self._by_count = np.zeros((3, *shape))
        self._n_F, self._n_squares_F = np.zeros((2, n_features))
        self._held: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, document_I: np.ndarray, feature_I: np.ndarray, change_ICE: np.ndarray) -> None:
        """Add the changes (I, C, E) of some firing tokens, documents in text order."""
        if not document_I.size:
            return
        self._held.append((document_I.astype(np.int64), feature_I.astype(np.int64), change_ICE))
        if self._held[0][0][0] == document_I[-1]:
            return
        whole = self._take_held()
        is_open = whole[0] == document_I[-1]  # the last document may have more to come
        self._close(*(part[~is_open] for part in whole))
        self._held = [tuple(part[is_open] for part in whole)]

    def _take_held(self) -> tuple[np.ndarray, ...]:
        """Return what was added of documents that are still open, and hold it no more."""
        held, self._held = self._held, []
        return tuple(np.concatenate(parts) for parts in zip(*held, strict=True))

    def _close(self, document_I: np.ndarray, feature_I: np.ndarray, change_ICE: np.ndarray) -> None:
        """Add the sums over all tokens of each document and feature, and their products."""
        order = np.lexsort((document_I, feature_I))
        document_I, feature_I = document_I[order], feature_I[order]
        starts = np.flatnonzero(
            (np.diff(feature_I, prepend=-1) != 0) | (np.diff(document_I, prepend=-1) != 0)
        )
        n_G = np.diff(np.append(starts, document_I.size)).astype(np.float64)
        sum_GCE = np.add.reduceat(change_ICE[order].astype(np.float64), starts)
        feature_G = feature_I[starts]
        firsts = np.flatnonzero(np.diff(feature_G, prepend=-1))
        features = feature_G[firsts]
        self._n_F[features] += np.add.reduceat(n_G, firsts)
        self._n_squares_F[features] += np.add.reduceat(n_G**2, firsts)
        self._sum[features] += np.add.reduceat(sum_GCE, firsts)
        self._by_count[features] += np.add.reduceat(sum_GCE * n_G[:, None, None], firsts)
        self._squares[features] += np.add.reduceat(sum_GCE**2, firsts)

    def effects(self, confidence: float) -> Effects:
        """Return the means of all that was added, with their intervals."""
        if self._held:
            self._close(*self._take_held())
        n_F11 = np.where(self._n_F > 0, self._n_F, np.nan)[:, None, None]
        mean = self._sum / n_F11
        n_squares_F11 = self._n_squares_F[:, None, None]
        squares = self._squares - 2 * mean * self._by_count + mean**2 * n_squares_F11
        clusters = effective_clusters(self._n_F, self._n_squares_F)[:, None, None]
        squares = np.maximum(squares, 0) / n_F11**2
        low, high = clustered_interval(mean, squares, clusters, confidence)
        columns = [bound[:, kind] for kind in range(len(CHANGES)) for bound in (mean, low, high)]
        return Effects(self._n_F.astype(np.int32), *columns)
