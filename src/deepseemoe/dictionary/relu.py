"""ReLU with an L1 penalty on scores: the crosscoder note's loss.

    loss = reconstruction + strength / C * mean over tokens of the sum over features of z * w

Transformer Circuits, "Sparse Crosscoders" (October 2024): with w the sum over layers of decoder
norms, a window pays as separate dictionaries of its layers would. C is the number of columns that
are reconstructed, by which our reconstruction error is divided too. All activations above 0 are
entries, so a step costs what L0 costs; it is high at first.
"""

from collections.abc import Sequence

from torch import Tensor

from deepseemoe.dictionary.codes import ByFeature
from deepseemoe.dictionary.ranks import ALONE, Ranks
from deepseemoe.dictionary.scan import Job, Scanner, floors
from deepseemoe.dictionary.selection import Penalty, Selection
from deepseemoe.dictionary.weights import Weights


class ReLU:
    """Keeps everything above 0, and penalises scores."""

    def __init__(self, scanner: Scanner | None = None, ranks: Ranks = ALONE) -> None:
        self._ranks = ranks
        self._scanner = scanner or Scanner()

    def select(self, weights: Weights, jobs: Sequence[Job], norm_F: Tensor) -> Selection:
        """Return all activations above 0."""
        entries = self._scanner.above(weights, jobs, floors(norm_F, 0.0))
        scores = entries.values * norm_F[entries.features]
        least = self._ranks.least(float(scores.min()) if len(scores) else float("inf"))
        n_elsewhere = int(self._ranks.total(len(scores))) - len(scores)
        return Selection(entries, least if least < float("inf") else 0.0, n_elsewhere=n_elsewhere)

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
        """Return the penalty and its slopes by z and by w."""
        features, values = selection.entries.features, selection.entries.values
        rate = strength / (n_tokens * len(weights.decoder_bias))
        sum_F = by_feature.sums(values)
        loss = self._ranks.total(rate * float((sum_F * norm_F).sum()))
        return Penalty(loss, slope_z + rate * norm_F[features], slope_norm_F=rate * sum_F)
