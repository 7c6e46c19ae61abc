"""Parameters of a dictionary, its bytes on disk, and what its training holds.

Everything is float32, and counts follow from the parts in `dictionary.layout`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from deepseemoe.config import DictionaryConfig, RunConfig
from deepseemoe.dictionary.blocks import BLOCK, GPU_BLOCK
from deepseemoe.dictionary.form import parts_in, read_and_written
from deepseemoe.dictionary.layout import Part
from deepseemoe.names import Window

FLOAT = 4
HEADER_BYTES = 100
"""A tensor's line in the header of a safetensors file, about."""

HELD = 3
"""Copies of the weights between two steps: themselves, and Adam's two moments."""

DEAD = 0.2
"""Share of features that AuxK's estimate takes for dead; they are copied out for its product."""


class Shape(NamedTuple):
    """One dictionary of a run, by its sizes."""

    name: str
    config: DictionaryConfig
    window: Window
    d_model: int

    @property
    def label(self) -> str:
        """What people call it."""
        return f"{self.name} {self.window}"

    @property
    def n_layers(self) -> int:
        """Layers of its window."""
        return len(self.window.layers)

    @property
    def sites(self) -> set[str]:
        """The arrays that it reads or writes."""
        return {site for sites in read_and_written(self.config, self.window) for site in sites}

    @property
    def parts(self) -> tuple[Part, ...]:
        """Which features read and write which layers."""
        return parts_in(self.config, n_layers=self.n_layers)

    @property
    def n_columns(self) -> int:
        """Columns that it writes."""
        return self.d_model * len(read_and_written(self.config, self.window)[1])

    @property
    def n_encoder(self) -> int:
        """Parameters of the encoders: for a token, half the FLOPs of encoding it."""
        return self.d_model * sum(part.n_features * len(part.reads) for part in self.parts)

    @property
    def n_decoder(self) -> int:
        """Parameters of the decoders."""
        return self.d_model * sum(part.n_features * len(part.writes) for part in self.parts)

    @property
    def n_parameters(self) -> int:
        """All parameters: encoders, decoders, their biases, skips and thresholds."""
        config = self.config
        biases = config.d_dict * (1 + (config.activation == "jumprelu")) + self.n_columns
        return self.n_encoder + self.n_decoder + biases + self.n_skip

    @property
    def n_skip(self) -> int:
        """Parameters of skip connections."""
        return self.config.skip * self.n_layers * self.d_model**2

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in memory."""
        return FLOAT * self.n_parameters

    @property
    def file_bytes(self) -> int:
        """Bytes of `weights.safetensors`, whose decoder has zeros where a transcoder writes none.

        Besides, mean and scale of each layer that is read and written.
        """
        config, n_columns = self.config, self.n_columns
        n_read, n_slots = self.n_layers * self.d_model, n_columns // self.d_model
        biases = config.d_dict * (1 + (config.activation == "jumprelu")) + n_columns
        normalisation = n_read + self.n_layers + n_columns + n_slots
        n_floats = self.n_encoder + config.d_dict * n_columns + self.n_skip + biases + normalisation
        return FLOAT * n_floats + 8 * HEADER_BYTES

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of a checkpoint: weights, two moments, and how long each feature was silent."""
        n_tensors = 1 + 3 * (2 * len(self.parts) + 2)
        return 3 * self.weight_bytes + 8 * self.config.d_dict + n_tensors * HEADER_BYTES

    @property
    def held_bytes(self) -> int:
        """Bytes that training holds on its device between two steps."""
        return HELD * self.weight_bytes + 8 * self.config.d_dict

    @property
    def step_bytes(self) -> int:
        """Bytes that a step takes besides, an estimate.

        A block of gradients, six matrices the size of the batch (and one for each Matryoshka
        prefix) and a block of pre-activations, and AuxK's copies of dead rows, their gradients and
        pre-activations.
        """
        n_tokens, d_dict = self.config.batch_tokens, self.config.d_dict
        n_matrices = 6 + 2 * len(self.config.prefixes)
        dense = n_tokens * (n_matrices * self.n_columns + min(GPU_BLOCK, d_dict))
        rows = 2 * min(BLOCK, d_dict) * self.n_parameters // d_dict
        auxk = 3 * n_tokens * d_dict + 2 * self.n_parameters
        has_auxk = self.config.auxk_weight > 0
        return FLOAT * (dense + rows + int(DEAD * auxk) * has_auxk)


def trained_of(shapes: Sequence[Shape]) -> list[Shape]:
    """Return those that the run trains; imported ones are there already."""
    return [shape for shape in shapes if shape.config.imported is None]


def shapes_of(run: RunConfig, *, d_model: int) -> tuple[Shape, ...]:
    """Return all dictionaries of a run, window by window."""
    return tuple(
        Shape(name, config, window, d_model)
        for name, config in run.dictionaries.items()
        for window in run.windows
    )


def kinds_of(shapes: Sequence[Shape]) -> dict[str, list[Shape]]:
    """Return the dictionaries of each name and length of window, by what people call them."""
    alike: dict[tuple[str, int], list[Shape]] = {}
    for shape in shapes:
        alike.setdefault((shape.name, shape.n_layers), []).append(shape)
    return {_label(group): group for group in alike.values()}


def _label(alike: Sequence[Shape]) -> str:
    first = alike[0]
    return first.label if len(alike) == 1 else f"{first.name}, {len(alike)} windows"
