"""Unigram and bigram: how often a token, or a pair of tokens, chose each expert in the fit part.

A rare group is drawn to a coarser prediction: a pair to its token, a token to the base rate,

    p(e | group) = (n(e, group) + s p(e | coarser)) / (n(group) + s)

with s chosen on other documents. On tokens of the fit part itself the document of the token is left
out of the counts, so that what is added to a prediction is not fitted to its hindsight.

Axes: T tokens, G groups, E experts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

SMOOTHING = (0.25, 1.0, 4.0, 16.0, 64.0, 256.0)
"""Tokens' worth of the coarser prediction that are tried."""


class Counts(NamedTuple):
    """For each group of tokens: how many there are, and how many chose each expert."""

    groups_G: np.ndarray
    n_G: np.ndarray
    chosen_GE: np.ndarray

    @classmethod
    def of(cls, groups_T: np.ndarray, chosen_TE: np.ndarray) -> "Counts":
        """Count the groups of tokens."""
        groups, place = np.unique(groups_T, return_inverse=True)
        ones = np.ones(place.size)
        belongs_GT = sp.csr_array((ones, (place, np.arange(place.size))), (groups.size, place.size))
        return cls(groups, belongs_GT.sum(1), belongs_GT @ chosen_TE.astype(np.float64))

    def at(self, groups_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the counts (T, 1) and (T, E) of some tokens' groups; 0 for unknown ones."""
        place = np.searchsorted(self.groups_G, groups_T).clip(max=self.groups_G.size - 1)
        known = (self.groups_G[place] == groups_T)[:, None]
        return np.where(known, self.n_G[place][:, None], 0), np.where(
            known, self.chosen_GE[place], 0
        )


class Grouped(NamedTuple):
    """Counts of the fit part; `fit` are those of its own tokens without their document."""

    counts: Counts
    fit: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, groups_T: np.ndarray, documents_T: np.ndarray, chosen_TE: np.ndarray) -> "Grouped":
        """Count the groups of the fit part."""
        counts = Counts.of(groups_T, chosen_TE)
        _, place = np.unique(groups_T, return_inverse=True)
        pairs = documents_T.astype(np.int64) * counts.groups_G.size + place
        own = Counts.of(pairs, chosen_TE).at(pairs)
        every = counts.at(groups_T)
        return cls(counts, (every[0] - own[0], every[1] - own[1]))


def smoothed(
    counted: tuple[np.ndarray, np.ndarray], coarser_TE: np.ndarray, strength: float
) -> np.ndarray:
    """Return p(e | group) (T, E) from counts (T, 1) and (T, E)."""
    n_T1, chosen_TE = counted
    return (chosen_TE + strength * coarser_TE) / (n_T1 + strength)


def base_rate(chosen_TE: np.ndarray) -> np.ndarray:
    """Return how often each expert is chosen (E,), with half a token on each side: never 0, 1."""
    return (chosen_TE.sum(0, dtype=np.float64) + 0.5) / (len(chosen_TE) + 1)


def best_strength(
    counted: tuple[np.ndarray, np.ndarray],
    coarser_TE: np.ndarray,
    chosen_TE: np.ndarray,
    strengths: Sequence[float] = SMOOTHING,
) -> float:
    """Return the strength with the lowest log loss on tokens that were not counted."""
    loss = [
        nats(to_logits(smoothed(counted, coarser_TE, one)), chosen_TE).mean() for one in strengths
    ]
    return float(strengths[int(np.argmin(loss))])


def to_logits(p: np.ndarray) -> np.ndarray:
    """Return log odds; p is neither 0 nor 1."""
    return np.log(p) - np.log1p(-p)


def nats(logits: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the log loss of each yes or no, in nats."""
    return np.logaddexp(0, logits) - chosen * logits
