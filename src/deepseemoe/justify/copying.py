"""The arm `copy`: features of one layer's SAE, decoded at every layer by least squares.

Axes: T tokens, L layers of the window, D d_model, F features.
"""

import numpy as np
import scipy.sparse as sp
import torch

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.site_names import site_names
from deepseemoe.justify.coders import Copy, matrix, own_entries
from deepseemoe.justify.probes import fit_ridge
from deepseemoe.justify.rows import Rows
from deepseemoe.names import Window

RIDGE = 1e-4


def fit_copy(sae: Dictionary, window: Window, rows: Rows) -> Copy:
    """Return the SAE with decoders for all layers of `window`, fitted on rows."""
    codes, targets = [], []
    for _, x_TLD in rows.blocks(site_names("resid_post", window)):
        codes.append(matrix(own_entries(sae, x_TLD, window), len(x_TLD), sae.d_dict))
        targets.append(x_TLD.flatten(1).numpy())
    fitted = fit_ridge(sp.vstack(codes, format="csr"), np.concatenate(targets), ridge=RIDGE)
    shape = len(window.layers), sae.d_model
    return Copy(
        sae,
        window,
        torch.from_numpy(fitted.weights_FE).float().view(-1, *shape),
        torch.from_numpy(fitted.bias_E).float().view(shape),
    )
