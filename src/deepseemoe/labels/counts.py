"""Where features fire in a reading, and how well a rule that covers so many tokens would do.

T tokens, F described features, nnz activations of these.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np
from scipy import sparse

from deepseemoe.labels.vocabulary import BoolArray, IntArray


class Firing(NamedTuple):
    """Activations sorted by feature, then place; feature f has `starts[f]:starts[f + 1]`."""

    starts: IntArray
    """(F + 1,)"""
    places: IntArray
    """(nnz,)"""
    n_valid: int
    """Tokens that could have fired"""

    @classmethod
    def of(cls, matrix: sparse.csr_array, features: Sequence[int], is_valid: BoolArray) -> "Firing":
        """Return where some features of a (T, all features) matrix fire."""
        turned = matrix.tocsc()[:, np.asarray(features, np.int64)]
        starts, places = turned.indptr.astype(np.int64), turned.indices.astype(np.int32)
        return cls(starts, places, int(is_valid.sum()))

    @classmethod
    def joined(cls, places: Sequence[IntArray], n_valid: int) -> "Firing":
        """Return features that fire at given places, one array for each."""
        starts = np.concatenate([[0], np.cumsum([len(one) for one in places])]).astype(np.int64)
        flat = np.concatenate([np.zeros(0, np.int32), *places]).astype(np.int32)
        return cls(starts, flat, n_valid)

    @property
    def n_features(self) -> int:
        """How many features are described."""
        return len(self.starts) - 1

    @property
    def features(self) -> IntArray:
        """(nnz,): the feature of each activation, by its place in the list of features."""
        return np.repeat(np.arange(self.n_features), np.diff(self.starts))

    @property
    def n_positive(self) -> IntArray:
        """(F,): tokens on which each feature fires."""
        return np.diff(self.starts)

    def places_of(self, feature: int) -> IntArray:
        """Return where one feature fires."""
        return self.places[self.starts[feature] : self.starts[feature + 1]]


def _merit(hits: float, covered: float, n_positive: float, n_valid: float) -> float:
    """Return how good a rule is that covers `covered` tokens, `hits` of them rightly; 1 is perfect.

    The mean of two measures, since each alone misleads where features are rare. Youden's J (2 x
    balanced accuracy - 1) hardly counts false alarms: 'domain code' would do for any feature of
    code. F1 hardly counts how rare a rule is.
    """
    n_negative = max(n_valid - n_positive, 1.0)
    informed = hits / max(n_positive, 1.0) - (covered - hits) / n_negative
    return (informed + 2 * hits / max(n_positive + covered, 1.0)) / 2


merit = numba.njit(cache=True, nogil=True)(_merit)
"""`_merit`, compiled; of single numbers."""
