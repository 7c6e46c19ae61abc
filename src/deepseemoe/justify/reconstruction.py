"""How well an arm reconstructs held-out tokens: squared errors by document, sparsity, codes.

Axes: T tokens, L layers of the window, D d_model, F features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from deepseemoe.dictionary.site_names import site_names
from deepseemoe.justify.coders import Coder, matrix
from deepseemoe.justify.rows import Rows
from deepseemoe.justify.sums import Key, Sums, units_of
from deepseemoe.names import Window


def means_of(rows: Rows, window: Window) -> NDArray[np.float64]:
    """Return the mean of each layer over valid rows, (L, D)."""
    sums = [
        block_TLD.double().sum(0).numpy()
        for _, block_TLD in rows.blocks(site_names("resid_post", window))
    ]
    return np.sum(sums, axis=0) / rows.n_valid


class Coded(NamedTuple):
    """The codes of all valid rows, and how many features a token has."""

    codes_TF: sp.csr_array

    @property
    def l0(self) -> float:
        """Active features of a token, over all layers together."""
        return self.codes_TF.nnz / max(self.codes_TF.shape[0], 1)


def encode(coder: Coder, rows: Rows) -> Coded:
    """Return the codes of all valid rows."""
    pieces = [
        matrix(coder.entries(x_TLD), len(x_TLD), coder.d_dict)
        for _, x_TLD in rows.blocks(coder.read_names)
    ]
    return Coded(sp.vstack(pieces, format="csr"))


def measure_fvu(
    arm: str,
    coder: Coder,
    rows: Rows,
    documents: Sequence[NDArray[np.int64]],
    sums: Sums,
    *,
    mean_LD: NDArray[np.float64],
) -> Coded:
    """Add an arm's squared errors and the squared deviations to `sums`, and return its codes.

    `documents` are those of each layer's rows: all the same, but for shuffled layers.
    """
    pieces = []
    units = [units_of(layer) for layer in documents]
    for part, x_TLD in rows.blocks(coder.read_names):
        entries = coder.entries(x_TLD)
        pieces.append(matrix(entries, len(x_TLD), coder.d_dict))
        y_TLD = coder.reconstruct(entries, n_tokens=len(x_TLD))
        error_TL = (x_TLD - y_TLD).double().square().sum(2).numpy()
        spread_TL = np.square(x_TLD.numpy() - mean_LD).sum(2)
        for place, layer in enumerate(coder.window.layers):
            key = Key(arm, "fvu", layer)
            sums.add(key, units[place][part], error_TL[:, place], spread_TL[:, place])
    return Coded(sp.vstack(pieces, format="csr"))
