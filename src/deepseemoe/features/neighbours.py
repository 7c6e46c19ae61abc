"""Which features lie nearest to each other: the cosine of what they write.

A feature's decoder rows of all slots, as they are stored, are put one after the other and brought
to length 1. Every pair is looked at: 2 · F² · C floating-point operations for F features of C
numbers, a block of rows at a time. Where that is more than EXACT_FLOPS, a random projection to
N_PROJECTED numbers finds a shortlist, whose cosines are then computed in full: a cosine of the
projection is off by 0.04 (one SE), so neighbours below a cosine of about 0.2 may be missed there.

Memory: the decoder and 64 MiB. F features, C numbers of a decoder row, N neighbours, B rows.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from deepseemoe.features import kernels
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.seeds import generator

logger = logging.getLogger(__name__)

N_NEIGHBOURS = 16
EXACT_FLOPS = 1e13
"""About three minutes of one core."""

N_PROJECTED = 512
SHORTLIST = 4
"""Candidates for each neighbour that is wanted."""

BLOCK_NUMBERS = 1 << 24
"""Cosines that are held at once."""


class Neighbours(NamedTuple):
    """The nearest features of each, (F, N): N is N_NEIGHBOURS, or all others where they are fewer."""

    features: npt.NDArray[np.int64]
    cosines: npt.NDArray[np.float32]


def nearest_features(weights: Path, *, d_dict: int, seed: int) -> Neighbours:
    """Return the features nearest to each of the dictionary in `weights`, nearest first.

    Equal cosines stand in the order of features. Raises ValueError where the file is damaged or
    has other features than `d_dict`.
    """
    return nearest_rows(read_directions(weights, d_dict), seed=seed)


def read_directions(weights: Path, d_dict: int) -> npt.NDArray[np.float32]:
    """Return (F, C): the decoder of each feature, of length 1, or 0 where it writes nothing."""
    try:
        with safe_open(str(weights), "numpy") as tensors:
            decoder_FC = tensors.get_tensor("decoder")
    except SafetensorError as error:
        raise ValueError(f"{weights}: damaged ({error}); run train_dictionary again") from None
    if len(decoder_FC) != d_dict:
        raise ValueError(
            f"{weights}: {len(decoder_FC)} features, but the feature shards have {d_dict}; "
            "expected files of one dictionary; run encode_features again"
        )
    unit_FC = decoder_FC.reshape(d_dict, -1).astype(np.float32)
    norm_F = np.sqrt(np.einsum("fc,fc->f", unit_FC, unit_FC))
    unit_FC /= np.where(norm_F > 0, norm_F, 1)[:, None]
    return unit_FC


def nearest_rows(
    unit_FC: npt.NDArray[np.float32], *, seed: int, exact_flops: float = EXACT_FLOPS
) -> Neighbours:
    """Return the rows nearest to each row of unit length."""
    n_features, n_numbers = unit_FC.shape
    n = min(N_NEIGHBOURS, n_features - 1)
    if n == 0:
        return Neighbours(
            np.empty((n_features, 0), np.int64), np.empty((n_features, 0), np.float32)
        )
    looked_at = unit_FC
    flops = 2 * n_features**2 * n_numbers
    if flops > exact_flops and n_numbers > N_PROJECTED:
        normal = generator(seed, "neighbours").standard_normal((n_numbers, N_PROJECTED), np.float32)
        looked_at = unit_FC @ normal
        looked_at /= np.maximum(np.linalg.norm(looked_at, axis=1), 1e-12)[:, None]
        flops = 2 * n_features**2 * N_PROJECTED
    logger.info("nearest features of %d: %.2g floating-point operations", n_features, flops)
    size = max(1, BLOCK_NUMBERS // n_features)
    found = Neighbours(np.empty((n_features, n), np.int64), np.empty((n_features, n), np.float32))
    progress = Progress("nearest features", n_features, unit="features")
    for start in range(0, n_features, size):
        rows = np.arange(start, min(start + size, n_features))
        short_BN = np.empty((len(rows), min(SHORTLIST * n, n_features - 1)), np.int64)
        kernels.nearest(looked_at[rows] @ looked_at.T, rows, short_BN.shape[1], short_BN)
        features, cosines = _ordered(short_BN, _cosines(unit_FC, rows, short_BN))
        found.features[rows], found.cosines[rows] = features[:, :n], cosines[:, :n]
        progress.advance(len(rows))
    return found


def _cosines(
    unit_FC: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], short_BN: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Return (B, N): cosines of rows with their shortlists, to six digits."""
    size = max(1, BLOCK_NUMBERS // (short_BN.shape[1] * unit_FC.shape[1]))
    cosines = np.empty(short_BN.shape, np.float32)
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        others = unit_FC[short_BN[part]]  # (B, N, C)
        cosines[part] = np.matmul(others, unit_FC[rows[part], :, None])[:, :, 0]
    return np.round(cosines, 6)  # the last digits hang on the processor


def _ordered(
    features: npt.NDArray[np.int64], cosines: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return shortlists by falling cosine, then feature."""
    order = np.lexsort((features, -cosines), axis=1)
    return np.take_along_axis(features, order, 1), np.take_along_axis(cosines, order, 1)


def neighbour_columns(found: Neighbours) -> dict[str, npt.NDArray]:
    """Return the columns of neighbours.parquet."""
    n_features, n = found.features.shape
    return {
        "feature": np.repeat(np.arange(n_features), n),
        "rank": np.tile(np.arange(n), n_features),
        "neighbour": found.features.ravel(),
        "cosine": found.cosines.ravel(),
    }
