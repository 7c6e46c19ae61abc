"""What each probe of a dictionary reads, for one router.

features  the dictionary's own
random    a dictionary of the same size and as many active features a token whose encoder is random
neurons   all coordinates of the activations that the dictionary reads, standardised
pca       as many of their principal components as features fire on a token, on average

For a router of layer n, a transcoder's inputs stop at `moe_in` of n: what later layers read was
written after the decision. A crosscoder's features read all layers of its window at once.

Axes: T tokens, L layers that the dictionary reads, D d_model, F features, C coordinates.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from deepseemoe.activations.layout import BFLOAT16
from deepseemoe.activations.store import ActivationStore
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.layout import Part
from deepseemoe.prediction.designs import Components, Dense, Design, Sparse, scaled
from deepseemoe.prediction.sample import FIT, Drawn, Sample
from deepseemoe.runtime.seeds import generator

BLOCK_NUMBERS = 1 << 25
"""Scores of a random dictionary that are held at once: 128 MiB."""


class Inputs(NamedTuple):
    """Inputs of all tokens of a sample, sparse or dense (T, F)."""

    matrix_TF: sp.csr_array | Tensor
    device: str = "cpu"

    @property
    def n_inputs(self) -> int:
        """F."""
        return self.matrix_TF.shape[1]

    def design(self, rows: np.ndarray) -> Design:
        """Return the inputs of some tokens, ready for a probe."""
        part = self.matrix_TF[rows if sp.issparse(self.matrix_TF) else torch.from_numpy(rows)]
        return (Sparse if sp.issparse(part) else Dense)(part, self.device)


@dataclass(frozen=True, eq=False)
class DictionaryInputs:
    """The inputs of a dictionary's probes; `acts_TLD` are raw activations of `dictionary.reads`.

    `others` are sparse inputs by name with a column for each feature, such as a random dictionary.
    """

    dictionary: Dictionary
    sample: Sample
    acts_TLD: Tensor
    others: Mapping[str, sp.csr_array]
    device: str = "cpu"

    def sees_later(self, layer: int) -> bool:
        """Return whether inputs hold what was written after the router of a layer decided."""
        return self.dictionary.kind != "transcoder" and self.dictionary.window.last >= layer

    def of(self, layer: int) -> Iterator[tuple[str, Inputs]]:
        """Yield the name and the inputs of each probe of the router of a layer."""
        yield from self._of(self._places(layer))

    @lru_cache(maxsize=1)  # noqa: B019 (lives as long as the one job that makes it)
    def _of(self, places: tuple[int, ...]) -> tuple[tuple[str, Inputs], ...]:
        fit_rows, columns = self.sample.rows(FIT), self._columns(places)
        features = self.sample.features_TF[:, columns]
        coordinates_TC = self.acts_TLD[:, list(places)].flatten(1)
        components = Components.of(coordinates_TC, fit_rows, self.device)
        every = components(coordinates_TC, coordinates_TC.shape[1])
        n_active = max(1, round(features[fit_rows].nnz / max(len(fit_rows), 1)))
        found = {"features": scaled(features, fit_rows), "neurons": every}
        found["pca"] = every[:, :n_active]
        for name, codes_TF in self.others.items():
            found[name] = scaled(codes_TF[:, columns], fit_rows)
        return tuple((name, Inputs(matrix, self.device)) for name, matrix in found.items())

    def _places(self, layer: int) -> tuple[int, ...]:
        layers = self.dictionary.window.layers
        is_late = self.dictionary.kind == "transcoder"
        return tuple(n for n, one in enumerate(layers) if one <= layer or not is_late)

    def _columns(self, places: tuple[int, ...]) -> np.ndarray:
        last = self.dictionary.window.layers[places[-1]]
        return np.flatnonzero(self.dictionary.source_layer_F.numpy() <= last)


def read_activations(
    stores: Sequence[ActivationStore], drawn: Drawn, sites: Sequence[str]
) -> Tensor:
    """Return raw activations of a sample's tokens (T, L, D), bfloat16 where they are stored so."""
    by_site = []
    for site in sites:
        pieces = []
        for store, places in zip(stores, drawn.places, strict=True):
            values = store[site].gather(store.text_order()[places])
            is_bfloat16 = store[site].attributes.get("view_dtype") == BFLOAT16
            tensor = torch.from_numpy(values.view(np.int16) if is_bfloat16 else values)
            pieces.append(tensor.view(torch.bfloat16) if is_bfloat16 else tensor.float())
        by_site.append(torch.cat(pieces))
    return torch.stack(by_site, dim=1)


def encode_random(
    dictionary: Dictionary, acts_TLD: Tensor, *, seed: int, device: str
) -> sp.csr_array:
    """Return what a random dictionary of the same form makes of activations, (T, F).

    Encoders are random directions of what each part of the dictionary reads, and the highest of a
    token are active, as many as in the dictionary; parts share them alike.
    """
    rng, columns = generator(seed, "prediction", "random dictionary"), []
    n_active = dictionary.k if dictionary.l0 is None else dictionary.l0
    share = max(1, round(n_active / len(dictionary.parts)))
    for part in dictionary.parts:
        shape = (part.n_features, len(part.reads) * dictionary.d_model)
        draws_FR = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(device)
        encoder_FR = torch.nn.functional.normalize(draws_FR, dim=1)
        columns.append(_highest(dictionary, part, acts_TLD, encoder_FR, share))
    return sp.csr_array(sp.hstack(columns, format="csr"))


def _highest(
    dictionary: Dictionary, part: Part, acts_TLD: Tensor, encoder_FR: Tensor, k: int
) -> sp.csr_array:
    """Return the `k` highest of each token of one part, those above 0, (T, F)."""
    found, k = [], min(k, part.n_features)
    reading = dictionary.reading.to(encoder_FR.device)
    for block_TLD in acts_TLD.split(max(1, BLOCK_NUMBERS // part.n_features)):
        x_TC = reading.apply(block_TLD.to(encoder_FR.device).float()).flatten(1)
        z_TF = part.read(x_TC, dictionary.d_model) @ encoder_FR.t()
        values, features = (one.cpu().numpy() for one in z_TF.topk(k, dim=1, sorted=False))
        rows = np.arange(0, features.size + 1, k)
        block = sp.csr_array((values.clip(0).ravel(), features.ravel(), rows), z_TF.shape)
        block.eliminate_zeros()
        found.append(block)
    return sp.vstack(found, format="csr")
