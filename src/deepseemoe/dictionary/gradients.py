"""Loss and gradients of one batch; only the encoder product before this is dense.

    z = BatchTopK(relu(E x + b_enc))        ŷ = W z + b_dec        (x, y: normalised activations)
    loss = mean over tokens, layers and dimensions of (ŷ - y)²  +  AuxK (see `auxk`)

Since every layer of y has a mean squared norm of D, the first term is the mean FVU over layers, up
to the difference between the batch and the whole.

Axes: T tokens, F features, C columns of the window, R and W columns of a part.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepseemoe.dictionary.auxk import AuxK, add_auxk
from deepseemoe.dictionary.codes import (
    Entries,
    by_feature,
    dot_products,
    feature_sums,
    offsets_of,
    weighted_sums,
)
from deepseemoe.dictionary.decoding import by_part, written
from deepseemoe.dictionary.selection import Job
from deepseemoe.dictionary.weights import Weights


class Losses(NamedTuple):
    """Losses of a batch."""

    total: float
    squared_error: float
    """Sum over tokens and columns."""
    auxk: float
    """Before its weight; 0 where no feature is dead."""


def gradients(
    weights: Weights,
    jobs: Sequence[Job],
    targets_TC: Tensor,
    entries: Entries,
    *,
    d_model: int,
    auxk: AuxK | None = None,
) -> tuple[Losses, Weights]:
    """Return the losses of a batch and the gradient of their total, in the shape of `weights`.

    `jobs` are all parts with their inputs, `entries` the selected activations over all parts.
    """
    parts = [job.part for job in jobs]
    pieces = by_part(entries, parts)
    output_TC = written(weights, parts, pieces, n_tokens=len(targets_TC), d_model=d_model)
    error_TC = output_TC.add_(weights.decoder_bias).sub_(targets_TC)
    squared_error = float(torch.dot(error_TC.view(-1), error_TC.view(-1)))
    slope_TC = error_TC * (2 / error_TC.numel())
    encoders, biases, decoders = zip(
        *(
            _part_gradients(weights, job, piece, slope_TC[:, job.part.write_columns(d_model)])
            for job, piece in zip(jobs, pieces, strict=True)
        ),
        strict=True,
    )
    grads = Weights(encoders, torch.cat(biases), decoders, slope_TC.sum(0))
    loss_auxk, weight = 0.0, 0.0
    if auxk:
        loss_auxk, weight = add_auxk(grads, weights, jobs, error_TC, d_model=d_model, auxk=auxk)
    total = squared_error / error_TC.numel() + weight * loss_auxk
    return Losses(total, squared_error, loss_auxk), grads


def _part_gradients(
    weights: Weights, job: Job, piece: Entries, slope_TW: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a part's encoder, encoder bias and decoder."""
    n_features = job.part.n_features
    slope_TW, inputs_TR = slope_TW.contiguous(), job.inputs_TR.contiguous()
    offsets = offsets_of(piece.tokens, len(slope_TW))
    slope_z = dot_products(slope_TW, weights.decoders[job.index], offsets, piece.features)
    order, starts = by_feature(piece.features, n_features), offsets_of(piece.features, n_features)
    tokens = piece.tokens[order]
    decoder_grad = weighted_sums(slope_TW, tokens, starts, piece.values[order])
    encoder_grad = weighted_sums(inputs_TR, tokens, starts, slope_z[order])
    bias_grad = feature_sums(slope_z, piece.features, order, starts)
    return encoder_grad, bias_grad, decoder_grad
