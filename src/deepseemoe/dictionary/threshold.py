"""The threshold at inference: the one that lets k features through on held-out tokens.

Training selects over a batch; a single token needs a fixed threshold on its weighted activations.
A running average of training thresholds lags behind the decoder norms and is far off after short
runs, so the (k * T)-th largest weighted activation over the T valid tokens of the select split is
taken. It is found in one pass and 16 MiB: positive float32 numbers sort like their bits, so their
upper bits are counted, in steps of 1/4096 of the value.

Axes: T tokens, L layers of the window, D d_model.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from torch import Tensor

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import Weighted

DROPPED_BITS = 11
N_BINS = 1 << (31 - DROPPED_BITS)


class Calibration(NamedTuple):
    """A threshold, and how many features a token had with it on the same tokens."""

    threshold: float
    l0: float


def calibrate(
    dictionary: Dictionary, blocks: Callable[[], Iterable[Tensor]], *, guess: float
) -> Calibration:
    """Return the threshold for `dictionary.k` active features a token, on raw blocks (T, L, D).

    `guess` is a threshold from training: counting starts at half of it, which spares most of the
    work, and starts again from 0 where that was too high. Raises ValueError without a token.
    """
    for floor in (guess / 2, 0.0):
        counts, n_tokens = _count(dictionary, blocks(), floor)
        if n_tokens == 0:
            raise ValueError("the select stores hold no valid token; cache more text")
        wanted = dictionary.k * n_tokens
        at_least = np.cumsum(counts[::-1])[::-1]
        if at_least[0] >= wanted or floor == 0:
            break
    reached = np.flatnonzero(at_least >= min(wanted, max(int(at_least[0]), 1)))
    place = int(reached[-1]) if len(reached) else 0
    edge = (np.array([place], dtype=np.int32) << DROPPED_BITS).view(np.float32)[0]
    return Calibration(float(edge), float(at_least[place] / n_tokens))


def mean_l0(dictionary: Dictionary, blocks: Iterable[Tensor]) -> float:
    """Return how many features of a token the dictionary's gate lets through, on raw blocks."""
    n_active = n_tokens = 0
    for block_TLD in blocks:
        n_active += len(dictionary.entries(block_TLD).values)
        n_tokens += len(block_TLD)
    if n_tokens == 0:
        raise ValueError("the select stores hold no valid token; cache more text")
    return n_active / n_tokens


def _count(
    dictionary: Dictionary, blocks: Iterable[Tensor], floor: float
) -> tuple[np.ndarray, int]:
    """Return how many weighted activations from `floor` on fall into each bin, and the tokens."""
    counts, n_tokens = np.zeros(N_BINS, dtype=np.int64), 0
    for block_TLD in blocks:
        entries = dictionary.entries(block_TLD, gate=Weighted(floor))
        scores = (entries.values * dictionary.norm_F[entries.features]).cpu().numpy()
        counts += np.bincount(scores.view(np.int32) >> DROPPED_BITS, minlength=N_BINS)
        n_tokens += len(block_TLD)
    return counts, n_tokens
