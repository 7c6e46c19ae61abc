"""A trained dictionary: what other stages load, encode with, and read directions from.

Axes: T tokens, D d_model, L layers of the window, F features, C = L * D columns of the window.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from deepseemoe.dictionary.codes import Codes, Entries, offsets_of
from deepseemoe.dictionary.decoding import by_part, skipped, written
from deepseemoe.dictionary.folder import read_folder, write_folder
from deepseemoe.dictionary.gates import Gate, Weighted
from deepseemoe.dictionary.layout import Part, n_slots, parts_of
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.dictionary.scan import Job, jobs_of
from deepseemoe.dictionary.site_names import site_names, written_names
from deepseemoe.dictionary.weights import Weights, assemble
from deepseemoe.names import Window

BLOCK_TOKENS = 4096
"""Tokens encoded at once; with blocks of 1024 features, 16 MiB of pre-activations."""


@dataclass(frozen=True)
class Dictionary:
    """A sparse dictionary over the layers of a window.

    With x_l = (raw_l - mean_l) * scale_l for each layer l of the window, and y likewise for what
    is written,

        z_f    = sum over l of e_{f,l} · x_l + b_f
        active : z_f > 0  and what the gate says, mostly  z_f * w_f >= threshold,
                 w_f = sum over l of |d_{f,l}|
        ŷ_l    = sum over active f of z_f d_{f,l} + c_l   (+ S_l x_l with a skip connection)

    A crosscoder reads and writes `resid_post`; over one layer it is a plain SAE. A transcoder's
    feature has a source layer s: it reads that layer alone (e_{f,l} = 0 for l ≠ s; `moe_in`) and
    writes s and, where it is cross-layer, later layers (d_{f,l} = 0 for l < s; `moe_out`). With
    `reconstruct_input` it writes two slots a layer, what is read there and `moe_out`. The gate was
    set on the select split so that k features are active on average; `l0` is how many were.
    """

    kind: str
    window: Window
    k: int
    reads: str
    writes: str
    weights: Weights
    reading: Normalisation
    writing: Normalisation
    gate: Gate = Weighted(0.0)
    l0: float | None = None
    activation: str = "batch_topk"
    cross_layer: bool = True
    reconstruct_input: bool = False

    @property
    def n_layers(self) -> int:
        """Layers of the window."""
        return len(self.window.layers)

    @property
    def d_model(self) -> int:
        """Width of the model."""
        return self.reading.mean_LD.shape[1]

    @property
    def d_dict(self) -> int:
        """Number of features."""
        return len(self.weights.encoder_bias)

    @property
    def n_slots(self) -> int:
        """How many columns of `d_model` it writes: one a layer, or input and output of each."""
        return n_slots(self.n_layers, reconstruct_input=self.reconstruct_input)

    @property
    def outputs(self) -> slice:
        """Which slots are of `writes`: all, or every second."""
        step = self.n_slots // self.n_layers
        return slice(step - 1, None, step)

    @property
    def read_names(self) -> tuple[str, ...]:
        """The sites that it reads, layer by layer."""
        return site_names(self.reads, self.window)

    @property
    def written_names(self) -> tuple[str, ...]:
        """The sites that it writes, slot by slot."""
        return written_names(
            self.reads, self.writes, self.window, reconstruct_input=self.reconstruct_input
        )

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Which features read and write which layers."""
        return parts_of(
            self.kind,
            n_layers=self.n_layers,
            d_dict=self.d_dict,
            cross_layer=self.cross_layer,
            reconstruct_input=self.reconstruct_input,
        )

    @cached_property
    def norm_F(self) -> Tensor:
        """Sum over layers of each feature's decoder norm, normalised units: its weight w."""
        return self.weights.norm_F(self.d_model)

    @cached_property
    def source_layer_F(self) -> Tensor:
        """Layer of the model that each feature reads, int64; a crosscoder's is its first layer."""
        first = torch.empty(self.d_dict, dtype=torch.int64)
        for part in self.parts:
            first[part.first : part.stop] = self.window.first + part.reads.start
        return first

    @cached_property
    def encoder_FLD(self) -> Tensor:
        """Encoder for raw activations; 0 at layers that a transcoder's feature does not read."""
        whole = assemble(self.weights.encoders, self.parts, columns="reads", n_layers=self.n_layers)
        return whole * self.reading.scale_L[:, None]

    @cached_property
    def encoder_bias_F(self) -> Tensor:
        """Bias for raw activations: z = <encoder_FLD, raw> + encoder_bias_F."""
        shift = torch.einsum("fld,ld->f", self.encoder_FLD.double(), self.reading.mean_LD.double())
        return (self.weights.encoder_bias.double() - shift).float()

    @cached_property
    def decoder_FSD(self) -> Tensor:
        """What a unit of each feature adds to each slot, raw; 0 where it does not write."""
        whole = assemble(self.weights.decoders, self.parts, columns="writes", n_layers=self.n_slots)
        return whole / self.writing.scale_L[:, None]

    @property
    def decoder_FLD(self) -> Tensor:
        """What a unit of each feature adds to raw activations of `writes`, layer by layer."""
        return self.decoder_FSD[:, self.outputs]

    @cached_property
    def decoder_bias_SD(self) -> Tensor:
        """Raw reconstruction, slot by slot, of a token with no active feature."""
        return self.writing.undo(self.weights.decoder_bias.view(self.n_slots, self.d_model))

    def encode(self, x_TLD: Tensor | ArrayLike) -> Codes:
        """Return the active features of raw activations of `reads`, as numpy arrays.

        Raises ValueError where the shape is not (T, L, D) of this window.
        """
        x_TLD = self._checked(x_TLD)
        none = torch.empty(0, dtype=torch.int64, device=self.norm_F.device)
        tokens, features, values = [none], [none], [none.float()]
        for start in range(0, len(x_TLD), BLOCK_TOKENS):
            entries = self.entries(x_TLD[start : start + BLOCK_TOKENS])
            tokens.append(entries.tokens + start)
            features.append(entries.features)
            values.append(entries.values)
        parts = offsets_of(torch.cat(tokens), len(x_TLD)), torch.cat(features), torch.cat(values)
        return Codes(*(part.cpu().numpy() for part in parts))

    def decode(self, codes: Codes, x_TLD: Tensor | None = None) -> Tensor:
        """Return the raw activations that codes stand for, (T, L, D), slot by slot.

        `x_TLD`, what was encoded, is needed where there are skip connections.
        """
        device = self.norm_F.device
        offsets, features, values = (torch.as_tensor(part, device=device) for part in codes)
        tokens = torch.repeat_interleave(offsets.diff())
        entries = Entries(tokens, features, values)
        return self.reconstruct(entries, n_tokens=len(offsets) - 1, x_TLD=x_TLD)

    def entries(
        self, x_TLD: Tensor, *, layer: int | None = None, gate: Gate | None = None
    ) -> Entries:
        """Return the active entries of raw activations, on the dictionary's device.

        With `layer`, the place of a layer in the window, `x_TLD` is (T, 1, D) of that layer, and
        only features that read that layer alone are encoded (a transcoder's). `gate` stands in for
        the dictionary's own.
        """
        if layer is None:
            x_TC = self.reading.apply(x_TLD).flatten(1)
            jobs = jobs_of(self.parts, x_TC, self.d_model)
        else:
            x_TR = self.reading.of_layer(layer).apply(x_TLD).flatten(1)
            wanted = range(layer, layer + 1)
            jobs = [Job(i, p, x_TR) for i, p in enumerate(self.parts) if p.reads == wanted]
        return (gate or self.gate).entries(self.weights, jobs, self.norm_F, self.parts)

    def reconstruct(
        self, entries: Entries, *, n_tokens: int, x_TLD: Tensor | None = None
    ) -> Tensor:
        """Return raw activations from entries, (T, L, D), slot by slot.

        `x_TLD`, what was encoded, is needed where there are skip connections.
        """
        output_TC = self.contribution(entries, n_tokens=n_tokens) + self.weights.decoder_bias
        if self.weights.skips:
            if x_TLD is None:
                raise ValueError(
                    f"the {self.kind} on {self.window} has skip connections, so what it encoded is "
                    "needed to reconstruct; pass x_TLD"
                )
            output_TC += skipped(self.weights, self.reading.apply(x_TLD).flatten(1))
        return self.writing.undo(output_TC.view(n_tokens, self.n_slots, self.d_model))

    def contribution(self, entries: Entries, *, n_tokens: int) -> Tensor:
        """Return what entries add to the reconstruction, normalised and without bias, (T, C)."""
        pieces = by_part(entries, self.parts)
        return written(self.weights, self.parts, pieces, n_tokens=n_tokens, d_model=self.d_model)

    def to(self, device: str | torch.device) -> "Dictionary":
        """Return the dictionary on `device`."""
        return replace(
            self,
            weights=self.weights.to(device),
            reading=self.reading.to(device),
            writing=self.writing.to(device),
            gate=self.gate.to(device),
        )

    def _checked(self, x_TLD: Tensor | ArrayLike) -> Tensor:
        x_TLD = torch.as_tensor(x_TLD, dtype=torch.float32, device=self.norm_F.device)
        if x_TLD.ndim != 3 or x_TLD.shape[1:] != (self.n_layers, self.d_model):
            raise ValueError(
                f"the {self.kind} on {self.window} encodes (T, {self.n_layers}, {self.d_model}), "
                f"raw {self.reads} of its layers; found shape {tuple(x_TLD.shape)}"
            )
        return x_TLD

    def save(
        self, folder: str | PathLike[str], *, manifest: Mapping[str, Any] | None = None
    ) -> None:
        """Write `weights.safetensors` and `config.json` to a folder, each whole or not at all."""
        write_folder(self, Path(folder), manifest or {})

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> "Dictionary":
        """Read a dictionary; raise ValueError where the folder holds none of this format."""
        return cls(**read_folder(Path(folder)))
