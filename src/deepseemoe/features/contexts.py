"""What a context is, and which groups of contexts show a feature in each half of the documents.

A context is `context_before` tokens, the peak, and `context_after` tokens, cut at the ends of the
segment: what lies beyond was not seen by attention, and documents never mix. Peaks are the maxima
of bins as wide as a context; one within a context's width of a stronger neighbour is dropped, so
that peaks of a feature never share a context. The strongest peak always stays.

    explain, score   halves of the documents: one to describe a feature from, one to judge it on
    top              the highest peaks, one a document before any second one
    q0 q1 …          the other peaks, some of each quantile of their activations
    near             around a token on which the feature fires elsewhere, but off in the whole context
    neighbour        a peak of one of the nearest features, where the feature itself is off
    random           around any token of the half `score`, off in the whole context

Few contexts give fewer rows: a feature that is on everywhere has none of the last three.
"""

import numpy as np
import numpy.typing as npt

from deepseemoe.config import FeaturesConfig
from deepseemoe.features.text import IntArray

HALVES = ("explain", "score")
TOP = 0
"""Group number of `top`; quantile i is 1 + i, then come `near`, `neighbour` and `random`."""


def group_names(config: FeaturesConfig) -> tuple[str, ...]:
    """Return the names of all groups by their number."""
    quantiles = (f"q{quantile}" for quantile in range(config.n_quantiles))
    return ("top", *quantiles, "near", "neighbour", "random")


def width(config: FeaturesConfig) -> int:
    """Return the tokens of a context that no segment cuts."""
    return config.context_before + 1 + config.context_after


def n_quantile_contexts(config: FeaturesConfig) -> int:
    """Return the contexts of a half that are drawn from quantiles."""
    return config.n_quantiles * config.n_per_quantile


def n_positive(config: FeaturesConfig) -> int:
    """Return the contexts of a half in which the feature fires."""
    return config.n_top + n_quantile_contexts(config)


def n_random(config: FeaturesConfig) -> int:
    """Return how many contexts without the feature are drawn to judge it: as many as with it."""
    return n_positive(config)


def n_contexts(config: FeaturesConfig) -> int:
    """Return the contexts of a feature in both halves, at most."""
    in_each = n_positive(config) + config.n_near + config.n_neighbour
    return len(HALVES) * in_each + n_random(config)


def quotas(config: FeaturesConfig) -> npt.NDArray[np.int64]:
    """Return how many contexts each group has in a half, at most."""
    quantiles = [config.n_per_quantile] * config.n_quantiles
    return np.array([config.n_top, *quantiles, config.n_near, config.n_neighbour, n_random(config)])


def rank_in_run(*keys: IntArray) -> IntArray:
    """Return the place of each row in its run of equal keys, from 0."""
    starts = np.flatnonzero(changes(*keys))
    lengths = np.diff(np.append(starts, len(keys[0])))
    return np.arange(len(keys[0])) - np.repeat(starts, lengths)


def changes(*keys: IntArray) -> npt.NDArray[np.bool_]:
    """Return where a run of equal keys begins."""
    begins = np.zeros(len(keys[0]), bool)
    begins[:1] = True
    for key in keys:
        begins[1:] |= key[1:] != key[:-1]
    return begins
