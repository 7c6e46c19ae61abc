"""The trained numbers of a dictionary, part by part, in normalised units.

Axes as in `layout`: D d_model, L layers, F features, C columns, R and W columns of a part.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepseemoe.dictionary.layout import Part
from deepseemoe.runtime.seeds import generator

Columns = Literal["reads", "writes"]


class Weights(NamedTuple):
    """Encoders and decoders of all parts, biases and the rest; every tensor is contiguous."""

    encoders: tuple[Tensor, ...]
    """One (F, R) for each part."""
    encoder_bias: Tensor
    """(F,) over all parts."""
    decoders: tuple[Tensor, ...]
    """One (F, W) for each part."""
    decoder_bias: Tensor
    """(C,)"""
    skips: tuple[Tensor, ...] = ()
    """A skip transcoder's linear maps from what each layer reads to what it writes, (D, D)."""
    thresholds: Tensor | None = None
    """JumpReLU's log thresholds, (F,)."""

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors in a fixed order, the order of the optimizer's state."""
        yield from (*self.encoders, self.encoder_bias, *self.decoders, self.decoder_bias)
        yield from self.skips
        if self.thresholds is not None:
            yield self.thresholds

    def replaced(self, tensors: Iterable[Tensor]) -> "Weights":
        """Return weights of this kind made of other tensors, in the order of `tensors`."""
        others = iter(tensors)
        return Weights(
            tuple(next(others) for _ in self.encoders),
            next(others),
            tuple(next(others) for _ in self.decoders),
            next(others),
            tuple(next(others) for _ in self.skips),
            None if self.thresholds is None else next(others),
        )

    def to(self, device: str | torch.device) -> "Weights":
        """Return the weights on `device`."""
        return self.replaced(tensor.to(device) for tensor in self.tensors())

    def cut(self, whole: Sequence[Part], parts: Sequence[Part]) -> "Weights":
        """Return the same weights as those of `parts`, which cut up the parts `whole`; views."""
        homes = [
            (index, part.first - home.first, part.stop - home.first)
            for part in parts
            for index, home in enumerate(whole)
            if home.first <= part.first < home.stop
        ]
        return self._replace(
            encoders=tuple(self.encoders[i][first:stop] for i, first, stop in homes),
            decoders=tuple(self.decoders[i][first:stop] for i, first, stop in homes),
        )

    def norm_F(self, d_model: int) -> Tensor:
        """Return the sum over layers of each feature's decoder norm, which weighs its selection."""
        return torch.cat([decoder_norms(decoder, d_model).sum(1) for decoder in self.decoders])


def decoder_norms(decoder_FW: Tensor, d_model: int) -> Tensor:
    """Return the norm of each feature's decoder at each layer that it writes."""
    by_layer = decoder_FW.view(len(decoder_FW), -1, d_model)
    return torch.linalg.vector_norm(by_layer, dim=2)


def tied_weights(part: Part, *, d_model: int, init_norm: float, seed: int) -> Weights:
    """Return a crosscoder's weights at the start: encoder = decoder, the same at every layer.

    Same directions at every layer let a feature begin as one that the residual stream carries
    through the window. A decoder has the norm `init_norm` over all its layers together, so that
    encoding and decoding its own direction returns init_norm² of it for any window.
    """
    n_layers = len(part.writes)
    direction_FD = _directions(part.n_features, d_model, seed)
    decoder = (direction_FD * (init_norm / n_layers**0.5)).repeat(1, n_layers)
    return Weights((decoder.clone(),), torch.zeros(part.n_features), (decoder,), _zeros(decoder))


def regressed_weights(
    parts: Sequence[Part],
    inputs_TC: Tensor,
    targets_TC: Tensor,
    *,
    d_model: int,
    init_norm: float,
    seed: int,
) -> Weights:
    """Return a transcoder's weights at the start, from one batch of normalised activations.

    Zero decoders, usual for transcoders, cannot start here: selection weighs by decoder norm, so
    nothing would ever be selected. Random decoders write noise. Instead each encoder is a random
    direction u and its decoder points where the target moves with u, along E[y (u·x)]: the slope
    of the best rank-one map from u. With y = x of equal variances this is encoder = decoder.
    """
    encoders, decoders = [], []
    for index, part in enumerate(parts):
        x_TR = part.read(inputs_TC, d_model)
        y_TW = targets_TC[:, part.write_columns(d_model)]
        direction_FR = _directions(part.n_features, d_model, seed, index).to(x_TR)
        slope_FW = direction_FR @ (x_TR.t() @ y_TW)
        encoders.append(init_norm * direction_FR)
        decoders.append(init_norm * torch.nn.functional.normalize(slope_FW, dim=1))
    n_features, zeros = parts[-1].stop, _zeros(decoders[0])
    bias = torch.zeros(n_features, device=inputs_TC.device)
    return Weights(tuple(encoders), bias, tuple(decoders), zeros)


def with_skips(weights: Weights, n_layers: int, *, d_model: int) -> Weights:
    """Return weights with skip connections that write nothing yet."""
    blank = weights.decoder_bias.new_zeros(d_model, d_model)
    return weights._replace(skips=tuple(blank.clone() for _ in range(n_layers)))


THRESHOLD_TOKENS = 512
"""All scores of these are held: 134 MB for 65,536 features."""


def with_thresholds(
    weights: Weights, parts: Sequence[Part], inputs_TC: Tensor, *, k: int, d_model: int
) -> Weights:
    """Return weights with thresholds that let k features through on average, on some of the tokens.

    Raises ValueError where fewer than k are above 0, on average.
    """
    norm_F, inputs_TC = weights.norm_F(d_model), inputs_TC[:THRESHOLD_TOKENS]
    scores_TF = torch.cat(
        [
            part.read(inputs_TC, d_model) @ encoder.t()
            for part, encoder in zip(parts, weights.encoders, strict=True)
        ],
        dim=1,
    ).mul_(norm_F)
    n_keep = min(k * len(scores_TF), scores_TF.numel())
    edge = scores_TF.view(-1).kthvalue(scores_TF.numel() - n_keep + 1).values
    if not edge > 0:
        raise ValueError(
            f"activation jumprelu starts from thresholds above 0, but fewer than k {k} of d_dict "
            f"{len(norm_F)} features of a token are; lower k to a quarter of d_dict or less"
        )
    return weights._replace(thresholds=(edge / norm_F).log())


def _directions(n_features: int, d_model: int, seed: int, part: int = 0) -> Tensor:
    """Return random unit vectors."""
    rng = generator(seed, "dictionary", "init", part)
    draws = rng.standard_normal((n_features, d_model), dtype=np.float32)
    return torch.nn.functional.normalize(torch.from_numpy(draws), dim=1)


def _zeros(decoder_FC: Tensor) -> Tensor:
    return torch.zeros(decoder_FC.shape[1], device=decoder_FC.device)


def assemble(
    tensors: Sequence[Tensor], parts: Sequence[Part], *, columns: Columns, n_layers: int
) -> Tensor:
    """Return the parts' (F, R) or (F, W) as one (F, L, D), zero where a part has no columns."""
    d_model = tensors[0].shape[1] // len(getattr(parts[0], columns))
    whole = tensors[0].new_zeros(parts[-1].stop, n_layers, d_model)
    for part, tensor in zip(parts, tensors, strict=True):
        layers = getattr(part, columns)
        span = slice(layers.start, layers.stop)
        whole[part.first : part.stop, span] = tensor.view(part.n_features, len(layers), d_model)
    return whole


def split(whole_FLD: Tensor, parts: Sequence[Part], *, columns: Columns) -> tuple[Tensor, ...]:
    """Return the inverse of `assemble`: one contiguous matrix for each part."""
    pieces = []
    for part in parts:
        layers = getattr(part, columns)
        piece = whole_FLD[part.first : part.stop, layers.start : layers.stop]
        pieces.append(piece.reshape(part.n_features, -1).contiguous())
    return tuple(pieces)
