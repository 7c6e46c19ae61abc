"""What an activation function does in training: say which features are active, and at what price.

One small module each: `batch_topk`, `topk`, `jumprelu`, `relu`. At inference a `gates.Gate` stands
in for it. A feature's activation z competes as its score z * w, where w is the sum over layers of
its decoder's norm (CodeNormalization.CROSSCODER of crosscoder_learning; Minder et al. 2025, arXiv
2504.02922): what counts is how much it writes. The unscaled z goes to the decoder.

Axes: T tokens, F features; nnz entries.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepseemoe.dictionary.codes import ByFeature, Entries
from deepseemoe.dictionary.scan import Job
from deepseemoe.dictionary.weights import Weights


class Selection(NamedTuple):
    """The entries of a batch, and the smallest score among them (0 where nothing was above 0).

    Where thresholds are learned there are also entries just below theirs, of value 0:
    `preactivations` then holds z of all.
    """

    entries: Entries
    threshold: float
    preactivations: Tensor | None = None
    n_elsewhere: int = 0
    """How many features are active on other ranks, summed over tokens."""

    @property
    def active_features(self) -> Tensor:
        """The feature of each entry that is above 0."""
        if self.preactivations is None:
            return self.entries.features
        return self.entries.features[self.entries.values > 0]

    @property
    def n_active(self) -> int:
        """How many features are active, summed over tokens."""
        return len(self.active_features) + self.n_elsewhere


class Penalty(NamedTuple):
    """What the loss has besides reconstruction, and how it changes with what is penalised."""

    loss: float
    slope_z: Tensor
    """All of the loss by z, (nnz,); reconstruction's share included."""
    slope_norm_F: Tensor | None = None
    """By w, the sum over layers of a feature's decoder norm."""
    slope_log_threshold_F: Tensor | None = None


class Activation(Protocol):
    """An activation function in training."""

    def select(self, weights: Weights, jobs: Sequence[Job], norm_F: Tensor) -> Selection:
        """Return what is active; `jobs` are all parts with their inputs, `norm_F` the weights w."""
        ...

    def penalise(
        self,
        weights: Weights,
        selection: Selection,
        slope_z: Tensor,
        *,
        by_feature: ByFeature,
        norm_F: Tensor,
        n_tokens: int,
        strength: float,
    ) -> Penalty:
        """Return the penalty, given the slope of reconstruction by z; `strength` is its weight."""
        ...


class Unpenalised:
    """The `penalise` of functions that choose how many features are active."""

    def penalise(
        self,
        weights: Weights,
        selection: Selection,
        slope_z: Tensor,
        *,
        by_feature: ByFeature,
        norm_F: Tensor,
        n_tokens: int,
        strength: float,
    ) -> Penalty:
        """Return no penalty."""
        return Penalty(0.0, slope_z)


def highest(scores: Tensor, n_keep: int) -> Tensor:
    """Return the indices of the `n_keep` highest scores, rising; of equal ones the first."""
    if len(scores) <= n_keep:
        return torch.arange(len(scores), device=scores.device)
    if scores.device.type == "cpu":
        return torch.from_numpy(_highest_of_numpy(scores.numpy(), n_keep))
    edge = scores.kthvalue(len(scores) - n_keep + 1).values
    is_kept = scores > edge
    tied = torch.nonzero(scores == edge).squeeze(1)
    is_kept[tied[: n_keep - int(is_kept.sum())]] = True
    return torch.nonzero(is_kept).squeeze(1)


def _highest_of_numpy(scores: NDArray[np.floating], n_keep: int) -> NDArray[np.int64]:
    """Return the same as `highest`; numpy's partition takes a sixth of torch's time."""
    place = len(scores) - n_keep
    edge = np.partition(scores, place)[place]
    index = np.flatnonzero(scores >= edge)
    n_tied_too_many = len(index) - n_keep
    if n_tied_too_many:
        tied = np.flatnonzero(scores[index] == edge)
        index = np.delete(index, tied[-n_tied_too_many:])
    return index


def kept(entries: Entries, index: Tensor) -> Entries:
    """Return some of the entries."""
    return Entries(*(part[index] for part in entries))
