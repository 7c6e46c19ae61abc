"""From active entries to what they write, part by part.

Axes: T tokens, C columns that the window writes, W columns that a part writes, D d_model.
"""

from collections.abc import Sequence

from torch import Tensor

from deepseemoe.dictionary.codes import Entries, offsets_of, weighted_sums
from deepseemoe.dictionary.layout import Part
from deepseemoe.dictionary.weights import Weights


def by_part(entries: Entries, parts: Sequence[Part]) -> list[Entries]:
    """Return the entries of each part, features counted from its first."""
    if len(parts) == 1:
        return [entries]
    return [entries.within(part.first, part.stop) for part in parts]


def written(
    weights: Weights,
    parts: Sequence[Part],
    pieces: Sequence[Entries],
    *,
    n_tokens: int,
    d_model: int,
) -> Tensor:
    """Return the sum of z times decoder over the entries of all parts, without the bias, (T, C)."""
    n_columns = len(weights.decoder_bias)
    output_TC = None
    for part, decoder_FW, piece in zip(parts, weights.decoders, pieces, strict=True):
        offsets = offsets_of(piece.tokens, n_tokens)
        sums_TW = weighted_sums(decoder_FW, piece.features, offsets, piece.values)
        if output_TC is None and sums_TW.shape[1] == n_columns:
            output_TC = sums_TW
            continue
        if output_TC is None:
            output_TC = sums_TW.new_zeros(n_tokens, n_columns)
        output_TC[:, part.write_columns(d_model)] += sums_TW
    return output_TC


def skipped(weights: Weights, inputs_TC: Tensor, *, layer: int | None = None) -> Tensor:
    """Return what the skip connections write, (T, C); of one layer of the window where given.

    `inputs_TC` are all columns read, or (T, D) of the one layer.
    """
    d_model, n_columns = len(weights.skips[0]), len(weights.decoder_bias)
    layers = range(len(weights.skips)) if layer is None else [layer]
    output_TC = inputs_TC.new_zeros(len(inputs_TC), n_columns)
    for place, index in enumerate(layers):
        x_TD = inputs_TC[:, place * d_model : (place + 1) * d_model]
        output_TC[:, skip_columns(weights, index)] = x_TD @ weights.skips[index].t()
    return output_TC


def skip_columns(weights: Weights, layer: int) -> slice:
    """Return the columns of a layer's output, the last of its slots."""
    d_model = len(weights.skips[0])
    slots = len(weights.decoder_bias) // (d_model * len(weights.skips))
    last = slots * (layer + 1) - 1
    return slice(last * d_model, (last + 1) * d_model)
