"""One way to encode and reconstruct a window, whether one dictionary does it or several.

Everything that is measured of an arm goes through `Coder`, so that several SAEs are judged by their
joint reconstruction of all layers, exactly as a crosscoder is.

Axes: T tokens, D d_model, L layers of the window, F features of all dictionaries together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from deepseemoe.dictionary.codes import Entries
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.site_names import site_names
from deepseemoe.names import Window


class Coder(Protocol):
    """What reads and writes `resid_post` of all layers of a window; a crosscoder is one."""

    @property
    def window(self) -> Window:
        """The layers that it codes."""
        ...

    @property
    def read_names(self) -> tuple[str, ...]:
        """The sites that it reads, layer by layer."""
        ...

    @property
    def written_names(self) -> tuple[str, ...]:
        """The sites that it reconstructs."""
        ...

    @property
    def outputs(self) -> slice:
        """Which of the latter are put into the model: all."""
        ...

    @property
    def d_dict(self) -> int:
        """Number of features."""
        ...

    def entries(self, x_TLD: Tensor) -> Entries:
        """Return the active entries of raw activations, by token, then by feature."""
        ...

    def reconstruct(self, entries: Entries, *, n_tokens: int) -> Tensor:
        """Return the raw activations that entries stand for, (T, L, D)."""
        ...


class OfResiduals:
    """What is the same for all that read and reconstruct `resid_post` of a window."""

    window: Window
    outputs = slice(None)

    @property
    def read_names(self) -> tuple[str, ...]:
        """The residual stream after each layer."""
        return site_names("resid_post", self.window)

    @property
    def written_names(self) -> tuple[str, ...]:
        """The same."""
        return self.read_names


@dataclass(frozen=True)
class Separate(OfResiduals):
    """One SAE for each layer of a window; their features are numbered one SAE after another."""

    saes: tuple[Dictionary, ...]

    def __post_init__(self) -> None:
        layers = [sae.window.layers for sae in self.saes]
        first = layers[0][0] if layers else 0
        if not layers or layers != [(first + n,) for n in range(len(layers))]:
            raise ValueError(
                f"separate SAEs of layers {layers}; expected one for each layer of a window"
            )

    @property
    def window(self) -> Window:
        """From the first SAE's layer to the last's."""
        return Window(self.saes[0].window.first, self.saes[-1].window.last)

    @cached_property
    def edges(self) -> tuple[int, ...]:
        """Where the features of each SAE begin, and how many there are."""
        sizes = [sae.d_dict for sae in self.saes]
        return tuple(int(edge) for edge in np.cumsum([0, *sizes]))

    @property
    def d_dict(self) -> int:
        """Features of all SAEs."""
        return self.edges[-1]

    def entries(self, x_TLD: Tensor) -> Entries:
        """Return what each SAE encodes of its own layer, as one matrix."""
        pieces = [sae.entries(x_TLD[:, i : i + 1]) for i, sae in enumerate(self.saes)]
        tokens = torch.cat([piece.tokens for piece in pieces])
        shifted = zip(pieces, self.edges, strict=False)
        features = torch.cat([piece.features + first for piece, first in shifted])
        order = torch.sort(tokens, stable=True).indices  # SAEs stay in order within a token
        values = torch.cat([piece.values for piece in pieces])
        return Entries(tokens[order], features[order], values[order])

    def reconstruct(self, entries: Entries, *, n_tokens: int) -> Tensor:
        """Return the reconstructions of all SAEs, layer beside layer."""
        spans = zip(self.edges[:-1], self.edges[1:], strict=True)
        own = [entries.within(first, stop) for first, stop in spans]
        outputs = [
            sae.reconstruct(piece, n_tokens=n_tokens)
            for sae, piece in zip(self.saes, own, strict=True)
        ]
        return torch.cat(outputs, dim=1)


@dataclass(frozen=True)
class Copy(OfResiduals):
    """One SAE of one layer, whose features are decoded at every layer of a window.

    What it reconstructs at other layers is what the residual stream merely carries along.
    """

    sae: Dictionary
    window: Window
    decoder_FLD: Tensor
    bias_LD: Tensor

    @property
    def d_dict(self) -> int:
        """Features of the SAE."""
        return self.sae.d_dict

    def entries(self, x_TLD: Tensor) -> Entries:
        """Return what the SAE encodes of its own layer."""
        return own_entries(self.sae, x_TLD, self.window)

    def reconstruct(self, entries: Entries, *, n_tokens: int) -> Tensor:
        """Return the fitted reconstruction of every layer."""
        z_TF = matrix(entries, n_tokens, self.d_dict)
        flat = torch.from_numpy(z_TF @ self.decoder_FLD.flatten(1).numpy())
        return flat.view(n_tokens, *self.bias_LD.shape).to(self.bias_LD) + self.bias_LD


def own_entries(sae: Dictionary, x_TLD: Tensor, window: Window) -> Entries:
    """Return what an SAE encodes of its own layer among those of `window`."""
    place = sae.window.first - window.first
    return sae.entries(x_TLD[:, place : place + 1])


def coder_of(dictionaries: Sequence[Dictionary]) -> Coder:
    """Return one crosscoder as it is, or several SAEs as one coder."""
    return dictionaries[0] if len(dictionaries) == 1 else Separate(tuple(dictionaries))


def moved(coder: Coder, device: str | torch.device) -> Coder:
    """Return a coder that encodes on `device`; a copy's sparse decoding stays on the CPU."""
    if isinstance(coder, Separate):
        return Separate(tuple(sae.to(device) for sae in coder.saes))
    if isinstance(coder, Copy):
        return replace(coder, sae=coder.sae.to(device), bias_LD=coder.bias_LD.to(device))
    return coder.to(device)


def matrix(entries: Entries, n_tokens: int, d_dict: int) -> sp.csr_array:
    """Return entries as a sparse (T, F) matrix, float32."""
    offsets = np.zeros(n_tokens + 1, np.int64)
    np.cumsum(np.bincount(entries.tokens.cpu().numpy(), minlength=n_tokens), out=offsets[1:])
    parts = (entries.values.cpu().numpy(), entries.features.cpu().numpy(), offsets)
    return sp.csr_array(parts, shape=(n_tokens, d_dict))
