"""Which columns of a window each feature reads and writes.

What is read of a window of L layers is a matrix of L * D columns, layer after layer; so is what is
written, in *slots* of D columns: one a layer, or two where a transcoder reconstructs its input too
(pre/post): input and output of the first layer, of the second, and so on.

A dictionary is a few *parts*: runs of features that read the same columns and write the same
columns. So a crosscoder is one part, a transcoder one part for each source layer, and nothing that
a transcoder must not write (layers before the source) exists in training at all. A Matryoshka
dictionary has more: those of a prefix come before those that are only in longer ones.

Axes: T tokens, D d_model, L layers of the window, F features, C columns of the window,
R columns that a part reads, W columns that it writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # plans use parts, and need no torch
    from torch import Tensor


class Part(NamedTuple):
    """Features `first` to `stop` - 1, which read whole layers of the window and write slots."""

    first: int
    stop: int
    reads: range
    writes: range
    group: int = 0
    """The shortest Matryoshka prefix that they are in, counted from 0."""

    @property
    def n_features(self) -> int:
        """How many features the part has."""
        return self.stop - self.first

    def read_columns(self, d_model: int) -> slice:
        """Return the columns that its encoder reads."""
        return slice(self.reads.start * d_model, self.reads.stop * d_model)

    def write_columns(self, d_model: int) -> slice:
        """Return the columns that its decoder writes."""
        return slice(self.writes.start * d_model, self.writes.stop * d_model)

    def read(self, inputs_TC: Tensor, d_model: int) -> Tensor:
        """Return what it reads of all columns, without a copy."""
        return inputs_TC[:, self.read_columns(d_model)]


def parts_of(
    kind: str,
    *,
    n_layers: int,
    d_dict: int,
    cross_layer: bool = True,
    reconstruct_input: bool = False,
    prefixes: Sequence[float] = (),
) -> tuple[Part, ...]:
    """Return the parts of a dictionary of `kind` over a window of `n_layers`.

    A transcoder's features go to the source layers as evenly as possible, earlier layers first.
    They write their source and, where `cross_layer`, all later slots. `prefixes` are the shares of
    each run of features that a Matryoshka prefix has, rising; all features come after them.
    Raises ValueError where a part would have no feature.
    """
    every = range(n_layers)
    if kind == "crosscoder":
        whole = (Part(0, d_dict, every, every),)
    else:
        slots = 2 if reconstruct_input else 1
        size, extra = divmod(d_dict, n_layers)
        edges = [layer * size + min(layer, extra) for layer in range(n_layers + 1)]
        whole = tuple(
            Part(
                edges[layer],
                edges[layer + 1],
                every[layer : layer + 1],
                range(slots * layer, slots * (n_layers if cross_layer else layer + 1)),
            )
            for layer in every
        )
    parts = tuple(piece for part in whole for piece in _grouped(part, prefixes))
    if min(part.n_features for part in parts) < 1:
        raise ValueError(
            f"d_dict {d_dict} leaves a part of the window of {n_layers} layers no feature"
        )
    return parts


def n_slots(n_layers: int, *, reconstruct_input: bool = False) -> int:
    """Return how many slots of D columns a dictionary writes."""
    return n_layers * (2 if reconstruct_input else 1)


def _grouped(part: Part, prefixes: Sequence[float]) -> list[Part]:
    """Return a part cut at the ends of Matryoshka prefixes."""
    ends = [part.first + round(share * part.n_features) for share in (*prefixes, 1.0)]
    starts = [part.first, *ends[:-1]]
    return [
        part._replace(first=first, stop=stop, group=group)
        for group, (first, stop) in enumerate(zip(starts, ends, strict=True))
    ]
