"""AuxK: a loss that gives features which have long been silent something to do.

Appendix A.2 of Gao et al. 2024 (arXiv 2406.04093): dead features fit what the others leave,
ê = W z_dead with the `k_aux` highest of each token's dead features, and add to the loss

    weight * min(n_dead / k_aux, 1) * mean |e - ê|² / mean |e - mean e|²     e = y - ŷ, held fixed

Departure: z_dead are pre-activations, without relu. A feature that is dead because all of its
pre-activations are negative gets no gradient through a relu, so its encoder would never move.

Axes: T tokens, F features, A dead features, C columns of the window, R and W columns of a part.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepseemoe.dictionary.selection import Job
from deepseemoe.dictionary.weights import Weights


class AuxK(NamedTuple):
    """Which features are dead, how many of them serve a token, and the weight of their loss."""

    is_dead_F: Tensor
    k_aux: int
    weight: float


class DeadPart(NamedTuple):
    """The dead features of one part: rows in it, and their decoders."""

    job: Job
    rows: Tensor
    decoder_AW: Tensor
    columns: slice


def add_auxk(
    grads: Weights,
    weights: Weights,
    jobs: Sequence[Job],
    error_TC: Tensor,
    *,
    d_model: int,
    auxk: AuxK,
) -> tuple[float, float]:
    """Add the loss's gradients to `grads`; return the loss before its weight, and the weight.

    `error_TC` is ŷ - y. Dense, but in the dead features only. Both numbers are 0 where no feature
    is dead, or where nothing is left to fit.
    """
    dead = [_dead_part(weights, job, auxk.is_dead_F, d_model) for job in jobs]
    n_dead = sum(len(part.rows) for part in dead)
    residual_TC = error_TC.neg()
    spread = float((residual_TC - residual_TC.mean(0)).square_().sum())
    if n_dead == 0 or spread == 0:
        return 0.0, 0.0
    weight = auxk.weight * min(n_dead / auxk.k_aux, 1.0)
    z_TA, is_kept_TA = _highest_preactivations(weights, dead, auxk.k_aux)
    miss_TC = _decode(dead, z_TA).sub_(residual_TC)
    loss = float(torch.dot(miss_TC.view(-1), miss_TC.view(-1))) / spread
    slope_TC = miss_TC.mul_(2 * weight / spread)
    _add_gradients(grads, dead, z_TA, is_kept_TA, slope_TC)
    return loss, weight


def _dead_part(weights: Weights, job: Job, is_dead_F: Tensor, d_model: int) -> DeadPart:
    rows = torch.nonzero(is_dead_F[job.part.first : job.part.stop]).squeeze(1)
    decoder_AW = weights.decoders[job.index][rows]
    return DeadPart(job, rows, decoder_AW, job.part.write_columns(d_model))


def _highest_preactivations(
    weights: Weights, dead: Sequence[DeadPart], k_aux: int
) -> tuple[Tensor, Tensor | None]:
    """Return each token's `k_aux` highest pre-activations, the others 0, and which were kept."""
    z_TA = torch.cat(
        [
            torch.addmm(
                weights.encoder_bias[rows + job.part.first],
                job.inputs_TR,
                weights.encoders[job.index][rows].t(),
            )
            for job, rows, _, _ in dead
        ],
        dim=1,
    )
    if z_TA.shape[1] <= k_aux:
        return z_TA, None
    highest = z_TA.topk(k_aux, dim=1, sorted=False).indices
    is_kept_TA = torch.zeros_like(z_TA, dtype=torch.bool).scatter_(1, highest, True)
    return z_TA.mul_(is_kept_TA), is_kept_TA


def _decode(dead: Sequence[DeadPart], z_TA: Tensor) -> Tensor:
    """Return ê, (T, C)."""
    n_columns = max(part.columns.stop for part in dead)
    output_TC = z_TA.new_zeros(len(z_TA), n_columns)
    for part, z in zip(dead, _split(z_TA, dead), strict=True):
        output_TC[:, part.columns].addmm_(z, part.decoder_AW)
    return output_TC


def _add_gradients(
    grads: Weights,
    dead: Sequence[DeadPart],
    z_TA: Tensor,
    is_kept_TA: Tensor | None,
    slope_TC: Tensor,
) -> None:
    """Add the gradients of all dead rows, given the slope of the loss at ê."""
    kept = _split(is_kept_TA, dead) if is_kept_TA is not None else [None] * len(dead)
    for (job, rows, decoder_AW, columns), z, is_kept in zip(
        dead, _split(z_TA, dead), kept, strict=True
    ):
        slope_TW = slope_TC[:, columns]
        slope_z = slope_TW @ decoder_AW.t()
        if is_kept is not None:
            slope_z.mul_(is_kept)
        grads.decoders[job.index].index_add_(0, rows, z.t() @ slope_TW)
        grads.encoders[job.index].index_add_(0, rows, slope_z.t() @ job.inputs_TR)
        grads.encoder_bias.index_add_(0, rows + job.part.first, slope_z.sum(0))


def _split(matrix_TA: Tensor, dead: Sequence[DeadPart]) -> tuple[Tensor, ...]:
    """Return the columns of each part."""
    return matrix_TA.split([len(part.rows) for part in dead], dim=1)
