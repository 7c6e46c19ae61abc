"""JumpReLU: a threshold of each feature, learned so that k features are active on average.

    z_f = pre_f where pre_f > θ_f, else 0        loss = reconstruction + strength * (L0 / k - 1)²

Rajamanoharan et al. 2024 (arXiv 2407.14435) with the target of dictionary_learning's JumpReLU
trainer. θ has no gradient but a straight-through estimate from pre-activations near it (their Eqs.
11 and 12). Departure: the kernel's width is a share of θ itself (`BANDWIDTH`), and log θ is what is
trained, so that nothing depends on the units of activations.

Entries are those above θ, and those in the lower half of the kernel, with value 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from deepseemoe.dictionary.codes import ByFeature
from deepseemoe.dictionary.ranks import ALONE, Ranks
from deepseemoe.dictionary.scan import Job, Scanner
from deepseemoe.dictionary.selection import Penalty, Selection
from deepseemoe.dictionary.weights import Weights

BANDWIDTH = 0.2
"""Width of the kernel as a share of θ."""


class JumpReLU:
    """Keeps activations above their feature's threshold, and penalises the distance of L0 to k."""

    def __init__(self, k: int, scanner: Scanner | None = None, ranks: Ranks = ALONE) -> None:
        self.k, self._ranks = k, ranks
        self._scanner = scanner or Scanner()

    def select(self, weights: Weights, jobs: Sequence[Job], norm_F: Tensor) -> Selection:
        """Return what is active, and what would nearly be."""
        threshold_F = weights.thresholds.exp()
        near = self._scanner.above(weights, jobs, threshold_F * (1 - BANDWIDTH / 2))
        is_active = near.values > threshold_F[near.features]
        entries = near._replace(values=torch.where(is_active, near.values, 0.0))
        scores = (near.values * norm_F[near.features])[is_active]
        least = self._ranks.least(float(scores.min()) if len(scores) else float("inf"))
        return Selection(
            entries,
            least if least < float("inf") else 0.0,
            preactivations=near.values,
            n_elsewhere=int(self._ranks.total(len(scores))) - len(scores),
        )

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
        """Return the penalty, and the estimated slope of all of the loss by log θ."""
        features, values = selection.entries.features, selection.entries.values
        threshold_F = weights.thresholds.exp()
        excess = selection.n_active / n_tokens / self.k - 1
        is_near = selection.preactivations <= threshold_F[features] * (1 + BANDWIDTH / 2)
        # By θ: -θ/ε K of the slope by z, -1/ε K of the slope by L0; by log θ: θ times that.
        slope_l0 = strength * 2 * excess / (self.k * n_tokens)
        pulls = torch.where(is_near, slope_z * threshold_F[features] + slope_l0, 0.0) / -BANDWIDTH
        return Penalty(
            loss=strength * excess**2,
            slope_z=torch.where(values > 0, slope_z, 0.0),
            slope_log_threshold_F=by_feature.sums(pulls),
        )
