"""The gradient of one batch; only the encoder product before it is dense.

The gradients of encoders and decoders are as large as the weights, and each row is a sum over the
entries of its feature alone. So they are made in blocks of rows when the optimizer asks for them,
used while they are in cache, and never held as a whole. Their norm, which decides about clipping,
is bounded without them.

Axes: T tokens, F features, B features of a block, C columns that the window writes, R and W columns
that a part reads and writes.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepseemoe.dictionary.adam import Rows
from deepseemoe.dictionary.auxk import AuxK, AuxRows, auxk
from deepseemoe.dictionary.codes import ByFeature, Entries, dot_products, offsets_of, weighted_sums
from deepseemoe.dictionary.decoding import by_part, skip_columns
from deepseemoe.dictionary.fit import fit
from deepseemoe.dictionary.layout import Part
from deepseemoe.dictionary.ranks import ALONE, Ranks
from deepseemoe.dictionary.scan import BLOCK, Job
from deepseemoe.dictionary.selection import Activation, Selection
from deepseemoe.dictionary.weights import Weights, decoder_norms


class Losses(NamedTuple):
    """Losses of a batch."""

    total: float
    squared_error: float
    """Sum over tokens and columns."""
    auxk: float
    """Before its weight; 0 where no feature is dead."""


class Gradient(NamedTuple):
    """The gradient of a batch in the shape of the weights, of which large ones are yet to be made.

    Sums over entries that are sorted by feature; `slope_z` and `z` are in that order.
    """

    weights: Weights
    parts: Sequence[Part]
    d_model: int
    inputs: Sequence[Tensor]
    """What each part reads, (T, R)."""
    slopes: Sequence[Tensor]
    """The loss by what each part writes, (T, W)."""
    by_feature: ByFeature
    tokens: Tensor
    slope_z: Tensor
    z: Tensor
    slope_norm_F: Tensor | None
    extra: Sequence[AuxRows] | None
    small: tuple[Tensor, ...]
    """Of encoder bias, decoder bias, skips and thresholds, whole."""
    ranks: Ranks = ALONE
    unit_decoder: bool = False
    """Whether what would only lengthen decoders is taken out, before the norm is."""

    def blocks(self, *, without: Collection[int] = ()) -> Iterator[list[Rows]]:
        """Yield the gradient of all of `Weights.tensors()` but some encoders and decoders.

        Of encoders and decoders the rows of a block of features, encoder first; then all others.
        """
        n_parts = len(self.parts)
        for index, part in enumerate(self.parts):
            made = ((index, self._encoder_rows), (n_parts + 1 + index, self._decoder_rows))
            made = [(place, rows) for place, rows in made if place not in without]
            for first, stop, entries in self._cuts(part) if made else ():
                yield [
                    Rows(place, first, stop, rows(index, first, stop, entries))
                    for place, rows in made
                ]
        places = [n_parts, *range(2 * n_parts + 1, 2 * n_parts + len(self.small))]
        yield [
            Rows(place, 0, len(gradient), gradient)
            for place, gradient in zip(places, self.small, strict=True)
        ]

    def _cuts(self, part: Part) -> Iterator[tuple[int, int, slice]]:
        """Yield blocks of a part's features, from its first, with the entries that they have."""
        edges = [*range(0, part.n_features, BLOCK), part.n_features]
        places = self.by_feature.starts[torch.tensor(edges) + part.first].tolist()
        for block, first in enumerate(edges[:-1]):
            yield first, edges[block + 1], slice(places[block], places[block + 1])

    def _sums(
        self, table: Tensor, part: Part, first: int, stop: int, entries: slice, values: Tensor
    ) -> Tensor:
        starts = self.by_feature.starts[part.first + first : part.first + stop + 1]
        return weighted_sums(table, self.tokens[entries], starts - entries.start, values[entries])

    def _encoder_rows(self, index: int, first: int, stop: int, entries: slice) -> Tensor:
        part, inputs_TR = self.parts[index], self.inputs[index]
        gradient_BR = self._sums(inputs_TR, part, first, stop, entries, self.slope_z)
        if self.extra:
            self.extra[index].add_to(gradient_BR, first, stop, of="encoder")
        return gradient_BR

    def _decoder_rows(self, index: int, first: int, stop: int, entries: slice) -> Tensor:
        part = self.parts[index]
        gradient_BW = self._sums(self.slopes[index], part, first, stop, entries, self.z)
        if self.extra:
            self.extra[index].add_to(gradient_BW, first, stop, of="decoder")
        if self.slope_norm_F is not None:
            slope_B = self.slope_norm_F[part.first + first : part.first + stop]
            gradient_BW += _norm_slopes(
                self.weights.decoders[index][first:stop], self.d_model
            ).mul_(slope_B[:, None])
        if self.unit_decoder:
            decoder_BW = self.weights.decoders[index][first:stop]
            along_B1 = (gradient_BW * decoder_BW).sum(1, keepdim=True)
            gradient_BW.addcmul_(along_B1, decoder_BW, value=-1.0)
        return gradient_BW

    def norm(self, enough: float) -> float:
        """Return the norm of the whole gradient, or a bound of it where that is below `enough`."""
        bound = self._bound()
        if bound <= enough:
            return bound
        squares = [
            torch.linalg.vector_norm(rows.gradient).square()
            for block in self.blocks()
            for rows in block
            if self._counts(rows.tensor)
        ]
        return float(self.ranks.sum(torch.stack(squares).sum()).sqrt())

    def _counts(self, tensor: int) -> bool:
        """Return whether this rank counts a tensor's norm: that of what all have, the first."""
        shared = 2 * len(self.parts) + 1  # the decoder bias, which skips follow
        is_shared = shared <= tensor <= shared + len(self.weights.skips)
        return self.ranks.rank == 0 or not is_shared

    def _bound(self) -> float:
        """Return a bound of the norm.

        A row is a sum of n terms v_t r_t, so its squared norm is at most n times the sum of
        (v_t |r_t|)², which takes norms of tokens only.
        """
        if self.slope_norm_F is not None:
            return float("inf")  # bounding it too is not worth more code: L1 is not the default
        counts_F = self.by_feature.counts_F
        n_entries = counts_F.to(self.z.dtype).repeat_interleave(counts_F, output_size=len(self.z))
        squares = sum(
            torch.dot(n_entries, (values * _most(tables)[self.tokens]).square_())
            for tables, values in ((self.inputs, self.slope_z), (self.slopes, self.z))
        )
        squares += sum(torch.linalg.vector_norm(gradient).square() for gradient in self.small)
        extra = self.ranks.total(sum(rows.norm() for rows in self.extra or ()))
        return 1.001 * (self.ranks.total(float(squares)) ** 0.5 + extra)


def gradient_of(
    weights: Weights,
    jobs: Sequence[Job],
    targets_TC: Tensor,
    selection: Selection,
    activation: Activation,
    *,
    inputs_TC: Tensor,
    d_model: int,
    norm_F: Tensor,
    strength: float = 0.0,
    dead: AuxK | None = None,
    pre_bias: bool = False,
    ranks: Ranks = ALONE,
    unit_decoder: bool = False,
) -> tuple[Losses, Gradient]:
    """Return the losses of a batch and the gradient of their total.

    `jobs` are all parts with their inputs, `selection` the entries over all parts, `strength` the
    weight of the activation function's penalty. With `pre_bias` the decoder bias was taken from
    what the jobs read; with `unit_decoder` decoders are held at norm 1. Parts, entries and gradient
    are those of one of the `ranks`.
    """
    parts, entries = [job.part for job in jobs], selection.entries
    pieces = by_part(entries, parts)
    found = fit(
        weights,
        parts,
        pieces,
        inputs_TC=inputs_TC,
        targets_TC=targets_TC,
        d_model=d_model,
        ranks=ranks,
    )
    slopes = [found.slopes[p.group][:, p.write_columns(d_model)].contiguous() for p in parts]
    slope_z = _slopes_of_z(weights, entries, parts, pieces, slopes)
    by_feature = ByFeature.of(entries.features, parts[-1].stop)
    penalty = activation.penalise(
        weights,
        selection,
        slope_z,
        by_feature=by_feature,
        norm_F=norm_F,
        n_tokens=len(targets_TC),
        strength=strength,
    )
    revival = None
    if dead:
        revival = auxk(weights, jobs, found.error_TC, dead, d_model=d_model, ranks=ranks)
    bias_F = by_feature.sums(penalty.slope_z)
    if revival:
        revival.add_to_bias(bias_F, parts)
    bias_C = found.slopes[0].sum(0)
    if pre_bias:
        bias_C = _less_reads(bias_C, weights, parts, bias_F, d_model=d_model, ranks=ranks)
    small = (bias_F, bias_C, *_skip_gradients(weights, found.slopes[0], inputs_TC))
    if penalty.slope_log_threshold_F is not None:
        small += (penalty.slope_log_threshold_F,)
    order = by_feature.order
    gradient = Gradient(
        weights=weights,
        parts=parts,
        d_model=d_model,
        inputs=[job.inputs_TR.contiguous() for job in jobs],
        slopes=slopes,
        by_feature=by_feature,
        tokens=entries.tokens[order],
        slope_z=penalty.slope_z[order],
        z=entries.values[order],
        slope_norm_F=penalty.slope_norm_F,
        extra=revival.rows if revival else None,
        small=small,
        ranks=ranks,
        unit_decoder=unit_decoder,
    )
    loss_auxk, weight = (revival.loss, revival.weight) if revival else (0.0, 0.0)
    total = found.loss + penalty.loss + weight * loss_auxk
    return Losses(total, found.squared_error, loss_auxk), gradient


def _less_reads(
    bias_C: Tensor,
    weights: Weights,
    parts: Sequence[Part],
    bias_F: Tensor,
    *,
    d_model: int,
    ranks: Ranks,
) -> Tensor:
    """Return the slope by a decoder bias that is also taken from what is read, (C,)."""
    slope_C = bias_C if ranks.rank == 0 else torch.zeros_like(bias_C)
    for part, encoder_FR in zip(parts, weights.encoders, strict=True):
        slope_C[part.read_columns(d_model)] -= bias_F[part.first : part.stop] @ encoder_FR
    return ranks.sum(slope_C)


def _slopes_of_z(
    weights: Weights,
    entries: Entries,
    parts: Sequence[Part],
    pieces: Sequence[Entries],
    slopes: Sequence[Tensor],
) -> Tensor:
    """Return the slope of reconstruction by the activation of each entry, (nnz,)."""
    slope_z = torch.empty_like(entries.values)
    for index, (part, piece) in enumerate(zip(parts, pieces, strict=True)):
        offsets = offsets_of(piece.tokens, len(slopes[index]))
        found = dot_products(slopes[index], weights.decoders[index], offsets, piece.features)
        if len(parts) == 1:
            return found
        slope_z[(entries.features >= part.first) & (entries.features < part.stop)] = found
    return slope_z


def _skip_gradients(weights: Weights, slope_TC: Tensor, inputs_TC: Tensor) -> Iterator[Tensor]:
    """Yield the gradient of each layer's skip connection, (D, D)."""
    for layer, skip_DD in enumerate(weights.skips):
        x_TD = inputs_TC[:, layer * len(skip_DD) : (layer + 1) * len(skip_DD)]
        yield slope_TC[:, skip_columns(weights, layer)].t() @ x_TD


def _norm_slopes(decoder_BW: Tensor, d_model: int) -> Tensor:
    """Return how the sum over layers of decoder norms changes with the decoder, (B, W)."""
    norms = decoder_norms(decoder_BW, d_model).clamp_min(torch.finfo(decoder_BW.dtype).tiny)
    return (decoder_BW.view(len(decoder_BW), -1, d_model) / norms[:, :, None]).flatten(1)


def _most(tables: Sequence[Tensor]) -> Tensor:
    """Return the largest norm of each token's rows, (T,)."""
    norms = [
        torch.linalg.vector_norm(table, dim=1) for table in {id(t): t for t in tables}.values()
    ]
    return norms[0] if len(norms) == 1 else torch.stack(norms).amax(0)
