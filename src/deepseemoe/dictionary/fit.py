"""How far the selected features are from their targets, and where the loss slopes.

    ŷ = W z + b_dec (+ S x)              loss = mean over tokens and columns of (ŷ - y)²

y is normalised, so that the loss is the mean FVU over slots, up to the difference between the batch
and the whole. A Matryoshka dictionary (Bussmann et al. 2025, arXiv 2503.17547) has a ŷ for each
prefix, of the features that it holds, and its loss is their mean; so a group's features answer for
the errors of every prefix that holds them.

Axes: T tokens, C columns that the window writes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepseemoe.dictionary.codes import Entries
from deepseemoe.dictionary.decoding import skipped, written
from deepseemoe.dictionary.layout import Part
from deepseemoe.dictionary.ranks import ALONE, Ranks
from deepseemoe.dictionary.weights import Weights


class Fit(NamedTuple):
    """Errors of a batch, and the loss's slopes."""

    loss: float
    squared_error: float
    """Of all features together; sum over tokens and columns."""
    error_TC: Tensor
    """ŷ - y of all features together."""
    slopes: tuple[Tensor, ...]
    """By what the features of each group write, (T, C); the first also by biases and skips."""


def fit(
    weights: Weights,
    parts: Sequence[Part],
    pieces: Sequence[Entries],
    *,
    inputs_TC: Tensor,
    targets_TC: Tensor,
    d_model: int,
    ranks: Ranks = ALONE,
) -> Fit:
    """Return the fit of a batch; `pieces` are the entries of each part.

    Where the parts are those of one of several `ranks`, what all of them write is summed.
    """
    groups = range(1 + max(part.group for part in parts))
    errors: list[Tensor] = []
    output_TC = None
    for group in groups:
        mine = [index for index, part in enumerate(parts) if part.group == group]
        added_TC = written(
            weights._replace(decoders=tuple(weights.decoders[i] for i in mine)),
            [parts[i] for i in mine],
            [pieces[i] for i in mine],
            n_tokens=len(targets_TC),
            d_model=d_model,
        )
        added_TC = ranks.sum(added_TC)
        if output_TC is None:
            output_TC = added_TC.add_(weights.decoder_bias)
            output_TC = output_TC.add_(skipped(weights, inputs_TC)) if weights.skips else output_TC
        else:
            output_TC = output_TC.add_(added_TC)
        is_last = group == groups[-1]
        errors.append(output_TC.sub_(targets_TC) if is_last else output_TC - targets_TC)
    squares = [float(torch.dot(error.view(-1), error.view(-1))) for error in errors]
    n_errors = len(errors) * targets_TC.numel()
    return Fit(sum(squares) / n_errors, squares[-1], errors[-1], _slopes(errors, 2 / n_errors))


def _slopes(errors: Sequence[Tensor], rate: float) -> tuple[Tensor, ...]:
    """Return for each group the sum of its prefix's errors and those of longer ones, scaled."""
    slopes = [errors[-1] * rate]
    for error_TC in reversed(errors[:-1]):
        slopes.append(torch.add(slopes[-1], error_TC, alpha=rate))
    return tuple(reversed(slopes))
