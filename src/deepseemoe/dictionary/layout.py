"""Which columns of a window each feature reads and writes.

A window of L layers is a matrix of L * D columns, layer after layer. A dictionary is a few *parts*:
runs of features that read the same columns and write the same columns. So a crosscoder is one part,
a transcoder one part for each source layer, and nothing that a transcoder must not write (layers
before the source) exists in training at all.

Axes: T tokens, D d_model, L layers of the window, F features, C = L * D columns of the window,
R columns that a part reads, W columns that it writes.
"""

from typing import NamedTuple

from torch import Tensor


class Part(NamedTuple):
    """Features `first` to `stop` - 1, which read and write whole layers of the window."""

    first: int
    stop: int
    reads: range
    writes: range

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


def parts_of(kind: str, *, n_layers: int, d_dict: int) -> tuple[Part, ...]:
    """Return the parts of a dictionary of `kind` over a window of `n_layers`.

    A transcoder's features go to the source layers as evenly as possible, earlier layers first.
    Raises ValueError where there are fewer features than source layers.
    """
    every = range(n_layers)
    if kind == "crosscoder":
        return (Part(0, d_dict, every, every),)
    if d_dict < n_layers:
        raise ValueError(f"d_dict {d_dict} leaves a layer of the window of {n_layers} no feature")
    size, extra = divmod(d_dict, n_layers)
    edges = [layer * size + min(layer, extra) for layer in range(n_layers + 1)]
    return tuple(
        Part(edges[layer], edges[layer + 1], every[layer : layer + 1], every[layer:])
        for layer in every
    )
