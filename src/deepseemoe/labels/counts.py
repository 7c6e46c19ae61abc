"""Where features fire in a reading, and how well a rule that covers so many tokens would do.

T tokens, F described features, nnz activations of these.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from deepseemoe.labels.reading import BoolArray, IntArray


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
        return cls(turned.indptr.astype(np.int64), turned.indices, int(is_valid.sum()))

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


def merit(
    hits: npt.NDArray[Any],
    covered: npt.NDArray[Any],
    n_positive: npt.NDArray[Any],
    n_valid: int,
) -> npt.NDArray[np.float64]:
    """Return how good a rule is that covers `covered` tokens, `hits` of them rightly; 1 is perfect.

    The mean of two measures, since each alone misleads where features are rare. Youden's J (2 x
    balanced accuracy - 1) hardly counts false alarms: 'domain code' would do for any feature of
    code. F1 hardly counts how rare a rule is. Arrays broadcast.
    """
    n_negative = n_valid - n_positive
    informed = hits / np.maximum(n_positive, 1) - (covered - hits) / np.maximum(n_negative, 1)
    f1 = 2 * hits / np.maximum(n_positive + covered, 1)
    return (informed + f1) / 2
