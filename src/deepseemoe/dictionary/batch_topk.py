"""BatchTopK: the k * T highest scores of a batch (Bussmann et al. 2024, arXiv 2412.06410).

Found exactly, without sorting all pre-activations: only entries above a guessed floor are looked at
(the last batch's threshold less a margin), and the few too many are then dropped. A floor that was
too high is lowered and the product repeated; that happens at the start of training at most, and
never changes what is selected.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from deepseemoe.dictionary.codes import Entries
from deepseemoe.dictionary.ranked import highest_of_all
from deepseemoe.dictionary.ranks import ALONE, Ranks
from deepseemoe.dictionary.scan import SLACK, Job, Scanner, floors
from deepseemoe.dictionary.selection import Selection, Unpenalised, kept
from deepseemoe.dictionary.weights import Weights

MARGIN = 0.06
"""How far below the last threshold the first floors are set; batches of 1024 differ by less."""

LEAST_MARGIN = 0.01
"""How near floors come where thresholds differ little."""

N_SAMPLE = 64
"""Tokens that the first floor is estimated from."""


class BatchTopK(Unpenalised):
    """Keeps the `k` * T highest scores of a batch of T tokens, fewer if few are above 0.

    Of equal ones at the edge the first by token, then by feature, are kept. The state is a guess
    that makes it fast; the result does not depend on it.
    """

    def __init__(self, k: int, scanner: Scanner | None = None, ranks: Ranks = ALONE) -> None:
        self.k, self._ranks = k, ranks
        self._guess: float | None = None
        self._wander = MARGIN / 2
        self._scanner = scanner or Scanner()

    def select(self, weights: Weights, jobs: Sequence[Job], norm_F: Tensor) -> Selection:
        """Return the selection from the jobs of all parts."""
        n_keep = self.k * len(jobs[0].inputs_TR)
        entries, scores = self._candidates(weights, jobs, norm_F, n_keep)
        index, threshold, n_all = highest_of_all(self._ranks, entries, scores, n_keep)
        self._learn(threshold)
        n_elsewhere = n_all - len(index)
        return Selection(kept(entries, index), threshold, n_elsewhere=n_elsewhere)

    def _learn(self, threshold: float) -> None:
        """Take in how far the threshold fell since the last batch; falls are forgotten slowly."""
        fall = 1 - threshold / self._guess if self._guess else MARGIN / 2
        self._wander = min(max(fall, 0.97 * self._wander), MARGIN / 2)
        self._guess = threshold

    def _candidates(
        self, weights: Weights, jobs: Sequence[Job], norm_F: Tensor, n_keep: int
    ) -> tuple[Entries, Tensor]:
        """Return entries that hold those of the `n_keep` highest scores, and all their scores."""
        if self._guess is None:
            n_mine = n_keep // self._ranks.n_ranks
            floor = self._ranks.least(first_floor(weights, jobs, norm_F, n_mine))
        else:
            floor = self._guess * (1 - LEAST_MARGIN - 2 * self._wander)
        while True:
            entries = self._scanner.above(weights, jobs, floors(norm_F, floor))
            scores = entries.values * norm_F[entries.features]
            n_sure = self._ranks.total(int((scores > floor * (1 + SLACK)).sum()))
            if n_sure >= n_keep or floor == 0:
                return entries, scores
            floor = floor / 2 if n_sure > n_keep / 2 else 0.0


def first_floor(weights: Weights, jobs: Sequence[Job], norm_F: Tensor, n_keep: int) -> float:
    """Return a floor that 1.3 times the wanted share of a few tokens' scores exceeds."""
    n_tokens = len(jobs[0].inputs_TR)
    every = max(1, n_tokens // N_SAMPLE)
    scores = torch.cat(
        [
            (
                job.inputs_TR[::every] @ weights.encoders[job.index].t()
                + weights.encoder_bias[job.part.first : job.part.stop]
            )
            * norm_F[job.part.first : job.part.stop]
            for job in jobs
        ],
        dim=1,
    )
    n_features, scores = scores.shape[1], scores.view(-1)
    n_above = min(int(1.3 * n_keep * len(scores) / (n_tokens * n_features)), len(scores) - 1)
    return max(0.0, float(scores.kthvalue(len(scores) - n_above).values))
