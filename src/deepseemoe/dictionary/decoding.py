"""From active entries to what they write, part by part.

Axes: T tokens, C columns of the window, W columns that a part writes.
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
    output_TC = weights.decoder_bias.new_zeros(n_tokens, len(weights.decoder_bias))
    for part, decoder_FW, piece in zip(parts, weights.decoders, pieces, strict=True):
        offsets = offsets_of(piece.tokens, n_tokens)
        sums_TW = weighted_sums(decoder_FW, piece.features, offsets, piece.values)
        output_TC[:, part.write_columns(d_model)] += sums_TW
    return output_TC
