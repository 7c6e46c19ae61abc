"""AuxK: a loss that gives features which have long been silent something to do.

Appendix A.2 of Gao et al. 2024 (arXiv 2406.04093): dead features fit what the others leave,
ê = W z_dead with the `k_aux` highest of each token's dead features, and add to the loss

    weight * min(n_dead / k_aux, 1) * mean |e - ê|² / mean |e - mean e|²     e = y - ŷ, held fixed

Two departures. z_dead are pre-activations, without relu: a feature that is dead because all of its
pre-activations are negative gets no gradient through a relu, so its encoder would never move. And
the means are over every `every`-th token of a batch, another set at each step: all of it is dense
in the dead features, and a direction to grow in needs fewer tokens than a fit (docs/log.md).

Axes: T tokens (those that are used), A dead features, C columns of the window, R and W columns of a
part.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from deepseemoe.dictionary.layout import Part
from deepseemoe.dictionary.ranked import edges_of_rows
from deepseemoe.dictionary.ranks import ALONE, Ranks
from deepseemoe.dictionary.scan import Job
from deepseemoe.dictionary.weights import Weights

ENOUGH_TOKENS = 512
MOST_STRIDE = 4


class AuxK(NamedTuple):
    """Which features are dead, how many of them serve a token, and the weight of their loss."""

    is_dead_F: Tensor
    k_aux: int
    weight: float
    step: int = 0

    def tokens(self, n_tokens: int) -> slice:
        """Return which tokens of a batch are used at this step."""
        every = max(1, min(MOST_STRIDE, n_tokens // ENOUGH_TOKENS))
        return slice(self.step % every, None, every)


class AuxRows(NamedTuple):
    """The gradient of the dead features of a part; `rows` are their places in it, rising."""

    rows: Tensor
    encoder: Tensor
    decoder: Tensor
    bias: Tensor

    def add_to(
        self, block: Tensor, first: int, stop: int, *, of: Literal["encoder", "decoder"]
    ) -> None:
        """Add the rows `first` to `stop` - 1 to a block of the part's gradient."""
        edges = torch.tensor([first, stop], device=self.rows.device)
        start, end = torch.searchsorted(self.rows, edges).tolist()
        if start < end:
            places, mine = self.rows[start:end] - first, getattr(self, of)[start:end]
            block.index_add_(0, places, mine)

    def norm(self) -> float:
        """Return a bound of the norm of the gradient of encoders and decoders."""
        norms = [torch.linalg.vector_norm(part) for part in (self.encoder, self.decoder)]
        return float(norms[0] + norms[1])


class Revival(NamedTuple):
    """AuxK's loss before its weight, the weight, and the gradient of both together."""

    loss: float
    weight: float
    rows: Sequence[AuxRows]

    def add_to_bias(self, bias_F: Tensor, parts: Sequence[Part]) -> None:
        """Add the gradient of the encoder bias."""
        for part, mine in zip(parts, self.rows, strict=True):
            bias_F.index_add_(0, mine.rows + part.first, mine.bias)


class DeadPart(NamedTuple):
    """The dead features of one part: rows in it, their weights, and what they read."""

    rows: Tensor
    encoder_AR: Tensor
    bias_A: Tensor
    decoder_AW: Tensor
    inputs_TR: Tensor
    columns: slice


def auxk(
    weights: Weights,
    jobs: Sequence[Job],
    error_TC: Tensor,
    dead: AuxK,
    *,
    d_model: int,
    ranks: Ranks = ALONE,
) -> Revival | None:
    """Return AuxK's loss and gradient; `error_TC` is ŷ - y of all tokens of the batch.

    Dense, but in the dead features only. None where none is dead, or where nothing is left to fit.
    """
    n_dead = int(ranks.total(int(dead.is_dead_F.sum())))
    if n_dead == 0:
        return None
    tokens = dead.tokens(len(error_TC))
    residual_TC = error_TC[tokens].neg()
    spread = float((residual_TC - residual_TC.mean(0)).square_().sum())
    if spread == 0:
        return None
    parts = [_dead_part(weights, job, dead.is_dead_F, tokens, d_model) for job in jobs]
    weight = dead.weight * min(n_dead / dead.k_aux, 1.0)
    z_TA, is_kept_TA = _highest_preactivations(parts, dead.k_aux, n_dead, ranks)
    miss_TC = ranks.sum(_decode(parts, z_TA)).sub_(residual_TC)
    loss = float(torch.dot(miss_TC.view(-1), miss_TC.view(-1))) / spread
    slope_TC = miss_TC.mul_(2 * weight / spread)
    return Revival(loss, weight, [*_gradients(parts, z_TA, is_kept_TA, slope_TC)])


def _dead_part(
    weights: Weights, job: Job, is_dead_F: Tensor, tokens: slice, d_model: int
) -> DeadPart:
    rows = torch.nonzero(is_dead_F[job.part.first : job.part.stop]).squeeze(1)
    return DeadPart(
        rows,
        weights.encoders[job.index][rows],
        weights.encoder_bias[rows + job.part.first],
        weights.decoders[job.index][rows],
        job.inputs_TR[tokens],
        job.part.write_columns(d_model),
    )


def _highest_preactivations(
    parts: Sequence[DeadPart], k_aux: int, n_dead: int, ranks: Ranks
) -> tuple[Tensor, Tensor | None]:
    """Return each token's `k_aux` highest pre-activations, the others 0, and which were kept.

    Those equal to the last one are kept too.
    """
    z_TA = torch.cat(
        [torch.addmm(part.bias_A, part.inputs_TR, part.encoder_AR.t()) for part in parts], dim=1
    )
    if n_dead <= k_aux:
        return z_TA, None
    is_kept_TA = z_TA >= edges_of_rows(ranks, z_TA, k_aux)
    return z_TA.mul_(is_kept_TA), is_kept_TA


def _decode(parts: Sequence[DeadPart], z_TA: Tensor) -> Tensor:
    """Return ê, (T, C)."""
    n_columns = max(part.columns.stop for part in parts)
    output_TC = z_TA.new_zeros(len(z_TA), n_columns)
    for part, z in zip(parts, _split(z_TA, parts), strict=True):
        output_TC[:, part.columns].addmm_(z, part.decoder_AW)
    return output_TC


def _gradients(
    parts: Sequence[DeadPart], z_TA: Tensor, is_kept_TA: Tensor | None, slope_TC: Tensor
):
    """Yield the gradient of the dead rows of each part, given the slope of the loss at ê."""
    kept = _split(is_kept_TA, parts) if is_kept_TA is not None else [None] * len(parts)
    for part, z, is_kept in zip(parts, _split(z_TA, parts), kept, strict=True):
        slope_TW = slope_TC[:, part.columns]
        slope_z = slope_TW @ part.decoder_AW.t()
        if is_kept is not None:
            slope_z.mul_(is_kept)
        yield AuxRows(part.rows, slope_z.t() @ part.inputs_TR, z.t() @ slope_TW, slope_z.sum(0))


def _split(matrix_TA: Tensor, parts: Sequence[DeadPart]) -> tuple[Tensor, ...]:
    """Return the columns of each part."""
    return matrix_TA.split([len(part.rows) for part in parts], dim=1)
