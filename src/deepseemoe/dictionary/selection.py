"""BatchTopK: which features are active, found without ever holding all pre-activations.

A feature's activation z = relu(<encoder, x> + bias) competes as z * w, where w is the sum over
layers of its decoder's norm (CodeNormalization.CROSSCODER of crosscoder_learning; Minder et al.
2025, arXiv 2504.02922): what counts is how much it writes. The unscaled z goes to the decoder.

The encoder product is made in blocks of features. Of each block only entries above a guessed floor
are kept (the last batch's threshold less a margin), and the few too many are then dropped exactly.
A floor that was too high is lowered and the product repeated; that happens at the start of training
at most, and never changes what is selected.

Axes: T tokens, F features, B features of a block, R columns that a part reads.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepseemoe.dictionary.codes import Entries
from deepseemoe.dictionary.layout import Part
from deepseemoe.dictionary.weights import Weights

BLOCK = 1024
"""Features of one block; 512 to 4096 took the same time, and smaller ones stay in cache."""

MARGIN = 0.06
"""How far below the last threshold the next floor is set; batches of 1024 tokens differ by less."""

SLACK = 1e-5
"""Scores this near the floor may be lost to rounding of floor / w, so none may be selected."""

N_SAMPLE = 64
"""Tokens that the first floor is estimated from."""


class Job(NamedTuple):
    """One part to encode: its place among the parts, itself, and what it reads, (T, R)."""

    index: int
    part: Part
    inputs_TR: Tensor


def jobs_of(parts: Sequence[Part], inputs_TC: Tensor, d_model: int) -> list[Job]:
    """Return all parts with what they read."""
    return [Job(i, part, part.read(inputs_TC, d_model)) for i, part in enumerate(parts)]


class Selection(NamedTuple):
    """What BatchTopK kept, and its smallest weighted activation (0 where nothing was above 0)."""

    entries: Entries
    threshold: float


class Scanner:
    """Finds activations above a floor of each feature; holds nothing but buffers between calls."""

    def __init__(self) -> None:
        self._product = torch.empty(0)
        self._is_above = np.empty(0, dtype=bool)

    def above(
        self, weights: Weights, jobs: Sequence[Job], floor_F: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return places (token * F + feature) and values of all activations above `floor_F`.

        No floor is below 0. Places rise within a block of features, blocks follow one another.
        """
        found = [
            self._in_block(weights, job, floor_F, first)
            for job in jobs
            for first in range(0, job.part.n_features, BLOCK)
        ]
        places, values = zip(*found, strict=True)
        return torch.cat(places), torch.cat(values)

    def _in_block(
        self, weights: Weights, job: Job, floor_F: Tensor, first: int
    ) -> tuple[Tensor, Tensor]:
        stop = min(first + BLOCK, job.part.n_features)
        span = slice(job.part.first + first, job.part.first + stop)
        encoder_BR = weights.encoders[job.index][first:stop]
        product_TB = self._buffer(job.inputs_TR, stop - first)
        torch.addmm(weights.encoder_bias[span], job.inputs_TR, encoder_BR.t(), out=product_TB)
        index = self._indices_above(product_TB, floor_F[span])
        token = index // (stop - first)
        feature = index - token * (stop - first) + span.start
        return token * len(floor_F) + feature, product_TB.view(-1)[index]

    def _buffer(self, inputs_TR: Tensor, width: int) -> Tensor:
        """Return a (T, width) matrix to overwrite; fresh memory costs a fifth of the product."""
        size = len(inputs_TR) * width
        old = self._product
        if old.numel() < size or old.dtype != inputs_TR.dtype or old.device != inputs_TR.device:
            self._product = inputs_TR.new_empty(size)
        return self._product[:size].view(len(inputs_TR), width)

    def _indices_above(self, product_TB: Tensor, floor_B: Tensor) -> Tensor:
        """Return flat indices of entries above the floor; numpy searches faster than torch."""
        if product_TB.device.type != "cpu":
            return torch.nonzero((product_TB > floor_B).view(-1)).squeeze(1)
        if self._is_above.size < product_TB.numel():
            self._is_above = np.empty(product_TB.numel(), dtype=bool)
        is_above = self._is_above[: product_TB.numel()].reshape(product_TB.shape)
        np.greater(product_TB.numpy(), floor_B.numpy(), out=is_above)
        return torch.from_numpy(np.flatnonzero(is_above))


def active_entries(
    weights: Weights, jobs: Sequence[Job], norm_F: Tensor, threshold: float
) -> Entries:
    """Return all activations above 0 whose weighted activation reaches `threshold`."""
    floor_F = floors(norm_F, threshold * (1 - SLACK))
    places, values = Scanner().above(weights, jobs, floor_F)
    reaches = values * norm_F[places % len(norm_F)] >= threshold
    return _entries(places[reaches], values[reaches], len(norm_F))


def _entries(places: Tensor, values: Tensor, n_features: int) -> Entries:
    """Return entries sorted by token, then by feature, from runs that are each sorted so."""
    if places.device.type == "cpu":  # numpy merges runs, and takes no time where there is one
        order = torch.from_numpy(places.numpy().argsort(kind="stable"))
    else:
        order = torch.argsort(places)
    places, values = places[order], values[order]
    tokens = places // n_features
    return Entries(tokens, places - tokens * n_features, values)


class BatchTopK:
    """Keeps the `k` * T highest weighted activations of a batch of T tokens, fewer if few are > 0.

    Of equal ones at the edge the first by token, then by feature, are kept. The state is a guess
    that makes it fast; the result does not depend on it.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self._guess: float | None = None
        self._scanner = Scanner()

    def __call__(self, weights: Weights, jobs: Sequence[Job], norm_F: Tensor) -> Selection:
        """Return the selection from the jobs of all parts; `norm_F` are the weights w."""
        n_tokens = len(jobs[0].inputs_TR)
        n_keep = self.k * n_tokens
        places, values, scores = self._candidates(weights, jobs, norm_F, n_keep)
        kept = highest(scores, places, n_keep)
        self._guess = float(scores[kept].min()) if len(kept) else 0.0
        return Selection(_entries(places[kept], values[kept], len(norm_F)), self._guess)

    def _candidates(
        self, weights: Weights, jobs: Sequence[Job], norm_F: Tensor, n_keep: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return places, values and scores of a set that holds the `n_keep` highest scores."""
        floor = (
            self._first_floor(weights, jobs, norm_F, n_keep)
            if self._guess is None
            else (self._guess * (1 - MARGIN))
        )
        while True:
            places, values = self._scanner.above(weights, jobs, floors(norm_F, floor))
            scores = values * norm_F[places % len(norm_F)]
            n_sure = int((scores > floor * (1 + SLACK)).sum())
            if n_sure >= n_keep or floor == 0:
                return places, values, scores
            floor = floor / 2 if n_sure > n_keep / 2 else 0.0

    def _first_floor(
        self, weights: Weights, jobs: Sequence[Job], norm_F: Tensor, n_keep: int
    ) -> float:
        """Return a floor that 1.3 times the wanted share of a few tokens' activations exceeds."""
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
        ).view(-1)
        n_above = min(int(1.3 * n_keep * len(scores) / (n_tokens * len(norm_F))), len(scores) - 1)
        return max(0.0, float(scores.kthvalue(len(scores) - n_above).values))


def floors(norm_F: Tensor, floor: float) -> Tensor:
    """Return the activation at which each feature's score is `floor`; infinite at norm 0."""
    return torch.where(norm_F > 0, floor / norm_F, torch.inf)


def highest(scores: Tensor, places: Tensor, n_keep: int) -> Tensor:
    """Return the indices of the `n_keep` highest scores, rising; ties go to the lowest places."""
    if len(scores) <= n_keep:
        return torch.arange(len(scores), device=scores.device)
    edge = scores.kthvalue(len(scores) - n_keep + 1).values
    is_kept = scores > edge
    tied = torch.nonzero(scores == edge).squeeze(1)
    first = torch.argsort(places[tied])[: n_keep - int(is_kept.sum())]
    is_kept[tied[first]] = True
    return torch.nonzero(is_kept).squeeze(1)
