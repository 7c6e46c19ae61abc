"""Whether features really span layers: duplicates, and where each feature does its work.

Decoder norms alone do not tell: features of crosscoders can have decoders at every layer and be
driven by one or two (fmxcoders, arXiv 2605.09438). So the layers that drive a feature are measured
by what each adds to its activation.

Axes: T tokens, L layers of the window, D d_model, F features.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from deepseemoe.dictionary.codes import dot_products, offsets_of
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.justify.rows import Rows

MIN_FIRINGS = 10
"""Features that fire on fewer tokens are left out: they correlate by chance."""
HIGH_CORRELATION = 0.9


def duplicates_per_1k(codes_TF: sp.csr_array) -> float | None:
    """Return pairs of features that fire together (phi > 0.9), for each 1000 features that fire.

    Of separate SAEs these are features that stand for the same thing at several layers. None where
    no feature fires often enough.
    """
    n_tokens = codes_TF.shape[0]
    fires_TF = codes_TF.astype(bool).astype(np.float64)
    count_F = np.asarray(fires_TF.sum(0)).ravel()
    kept = np.flatnonzero((count_F >= MIN_FIRINGS) & (count_F < n_tokens))
    if not len(kept):
        return None
    own_TF, count_F = fires_TF[:, kept], count_F[kept]
    both = sp.triu(own_TF.T @ own_TF, k=1).tocoo()
    n_i, n_j = count_F[both.row], count_F[both.col]
    spread = np.sqrt(n_i * (n_tokens - n_i) * n_j * (n_tokens - n_j))
    phi = (n_tokens * both.data - n_i * n_j) / spread
    return 1000 * float((phi > HIGH_CORRELATION).sum()) / len(kept)


class EffectiveLayers(NamedTuple):
    """Effective number of layers, exp(entropy of shares), mean over features that fire."""

    functional: float | None
    """by what each layer adds to the activation where the feature is active"""
    decoder: float | None
    """by decoder norms"""


def effective_layers(crosscoder: Dictionary, rows: Rows) -> EffectiveLayers:
    """Return how many layers of the window drive a feature, and how many it is written to.

    A layer's share is the mean of e_l · x_l over the tokens where the feature is active, with x
    normalised, so that its mean encodes to nothing; negative means count as none.
    """
    encoder_FLD = crosscoder.encoder_FLD
    total_FL = torch.zeros(encoder_FLD.shape[:2], dtype=torch.float64)
    count_F = torch.zeros(len(encoder_FLD), dtype=torch.float64)
    for _, x_TLD in rows.blocks(crosscoder.read_names):
        entries = crosscoder.entries(x_TLD)
        offsets = offsets_of(entries.tokens, len(x_TLD))
        centred_TLD = x_TLD - crosscoder.reading.mean_LD
        for place in range(crosscoder.n_layers):
            left, right = centred_TLD[:, place].contiguous(), encoder_FLD[:, place].contiguous()
            parts = dot_products(left, right, offsets, entries.features).double()
            total_FL[:, place].index_add_(0, entries.features, parts)
        count_F += torch.bincount(entries.features, minlength=len(count_F))
    fires = (count_F >= MIN_FIRINGS).numpy()
    scale_L = crosscoder.writing.scale_L[:, None]
    norm_FL = torch.linalg.vector_norm(crosscoder.decoder_FLD * scale_L, dim=2)
    return EffectiveLayers(
        _mean_number(total_FL.clamp_min(0).numpy()[fires]),
        _mean_number(norm_FL.double().numpy()[fires]),
    )


def _mean_number(parts_FL: NDArray[np.float64]) -> float | None:
    """Return the mean over features of exp(entropy of shares); None where there is no feature."""
    total_F = parts_FL.sum(1)
    share_FL = parts_FL[total_F > 0] / total_F[total_F > 0, None]
    if not len(share_FL):
        return None
    entropy_F = -(share_FL * np.log(np.where(share_FL > 0, share_FL, 1.0))).sum(1)
    return float(np.exp(entropy_F).mean())
