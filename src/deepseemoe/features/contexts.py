"""Which contexts show a feature: its highest peaks, some of each quantile, and some without it.

A context is `context_before` tokens, the peak, and `context_after` tokens, cut at the ends of the
segment: what lies beyond was not seen by attention, and documents never mix. Peaks are the maxima
of bins as wide as a context; one within a context's width of a stronger neighbour is dropped, so
that peaks of a feature never share a context. The strongest peak always stays.

T tokens, F features, P peaks sorted by feature and place, R chosen contexts.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepseemoe.config import FeaturesConfig
from deepseemoe.features.text import FeatureText, IntArray

TOP = 0
"""Group number of `top`; quantile i is 1 + i, and `random` comes after the last quantile."""


class Peaks(NamedTuple):
    """Candidate contexts of all features."""

    features: IntArray
    places: IntArray
    values: npt.NDArray[np.float32]

    def take(self, chosen: IntArray | npt.NDArray[np.bool_]) -> "Peaks":
        """Return some of the peaks."""
        return Peaks(self.features[chosen], self.places[chosen], self.values[chosen])


class Contexts(NamedTuple):
    """Chosen contexts, sorted by feature, group and rank; (R,) each."""

    features: IntArray
    groups: IntArray
    ranks: IntArray
    places: IntArray


def group_name(group: int, config: FeaturesConfig) -> str:
    """Return `top`, `q0` … or `random`."""
    if group == TOP:
        return "top"
    return f"q{group - 1}" if group <= config.n_quantiles else "random"


def n_random(config: FeaturesConfig) -> int:
    """Return how many contexts without the feature are drawn: as many as the larger kind with."""
    return max(config.n_top, config.n_quantiles * config.n_per_quantile)


def choose_contexts(
    text: FeatureText, config: FeaturesConfig, random: np.random.Generator
) -> Contexts:
    """Return the contexts of every feature that fires."""
    peaks = find_peaks(text, width=config.context_before + 1 + config.context_after)
    is_top = choose_top(peaks, text.doc_ids, config.n_top)
    groups = np.where(is_top, TOP, 1 + quantiles(peaks, config.n_quantiles))
    is_chosen = is_top | first_of_groups(
        peaks.features, groups, order=random.random(len(groups)), n=config.n_per_quantile
    )
    active, groups = peaks.take(is_chosen), groups[is_chosen]
    firing = np.flatnonzero(np.diff(text.runs.starts))
    off = draw_off(text, firing, config, random)
    features = np.concatenate([active.features, off.features])
    groups = np.concatenate([groups, np.full(len(off.features), 1 + config.n_quantiles)])
    places = np.concatenate([active.places, off.places])
    falling = np.concatenate([-active.values, np.arange(len(off.features), dtype=np.float32)])
    order = np.lexsort((places, falling, groups, features))
    features, groups, places = features[order], groups[order], places[order]
    return Contexts(features, groups, rank_in_run(features, groups), places)


def bounds(
    text: FeatureText, places: IntArray, config: FeaturesConfig
) -> tuple[IntArray, IntArray]:
    """Return the first and the last token of the context around each place, within its segment."""
    segment = text.segment_of[places]
    first = np.maximum(places - config.context_before, text.segments[segment])
    last = np.minimum(places + config.context_after, text.segments[segment + 1] - 1)
    return first, last


def find_peaks(text: FeatureText, *, width: int) -> Peaks:
    """Return the peaks of all features: bin maxima with no stronger neighbour within `width`."""
    runs, features = text.runs, text.runs.features
    if not len(features):
        return Peaks(features, runs.places, runs.values)
    segment = text.segment_of[runs.places]
    bins = (runs.places - text.segments[segment]) // width
    starts = np.flatnonzero(_changes(features, segment, bins))
    bin_of = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(features))))
    is_maximum = runs.values == np.maximum.reduceat(runs.values, starts)[bin_of]
    maxima = np.flatnonzero(is_maximum)
    maxima = maxima[_changes(bin_of[maxima])]  # the first of equal ones
    peaks = Peaks(features[maxima], runs.places[maxima], runs.values[maxima])
    near = (
        (np.diff(peaks.features) == 0)
        & (np.diff(segment[maxima]) == 0)
        & (np.diff(peaks.places) < width)
    )
    is_kept = np.ones(len(maxima), bool)
    is_kept[1:] &= ~(near & (peaks.values[:-1] >= peaks.values[1:]))
    is_kept[:-1] &= ~(near & (peaks.values[1:] > peaks.values[:-1]))
    return peaks.take(is_kept)


def choose_top(peaks: Peaks, doc_ids: IntArray, n: int) -> npt.NDArray[np.bool_]:
    """Return (P,): the n highest peaks of each feature, one a document before any second one."""
    document = np.cumsum(_changes(peaks.features, doc_ids[peaks.places]))  # of this feature
    order = np.lexsort((-peaks.values, document))
    repeat = np.empty(len(order), np.int64)
    repeat[order] = rank_in_run(document)
    order = np.lexsort((-peaks.values, repeat, peaks.features))
    is_top = np.zeros(len(order), bool)
    is_top[order] = rank_in_run(peaks.features) < n
    return is_top


def quantiles(peaks: Peaks, n: int) -> IntArray:
    """Return (P,): the quantile of each peak among its feature's, 0 the weakest, equally filled."""
    order = np.lexsort((peaks.values, peaks.features))
    counts = np.bincount(peaks.features)[peaks.features]
    result = np.empty(len(order), np.int64)
    result[order] = rank_in_run(peaks.features)
    return result * n // np.maximum(counts, 1)


def first_of_groups(
    features: IntArray, groups: IntArray, *, order: npt.NDArray[np.floating], n: int
) -> npt.NDArray[np.bool_]:
    """Return which rows are among the first n of their feature and group, by `order`."""
    rows = np.lexsort((order, groups, features))
    is_first = np.zeros(len(rows), bool)
    is_first[rows] = rank_in_run(features[rows], groups[rows]) < n
    return is_first & (groups != TOP)


def draw_off(
    text: FeatureText, features: IntArray, config: FeaturesConfig, random: np.random.Generator
) -> Peaks:
    """Return contexts in which the feature is off everywhere; values are 0.

    Drawn from valid places; a feature that leaves too few free contexts gets fewer, none twice.
    """
    wanted = n_random(config)
    tried = random.choice(np.flatnonzero(text.is_valid), size=(len(features), 4 * wanted))
    places, owners = tried.ravel(), np.repeat(features, 4 * wanted)
    first, last = bounds(text, places, config)
    start, stop = text.entries_between(owners, first, last)
    order = np.lexsort((places, owners))  # a place drawn twice lies beside itself
    is_new = np.empty(len(order), bool)
    is_new[order] = _changes(owners[order], places[order])
    is_off = (start == stop) & is_new
    owners, places = owners[is_off], places[is_off]
    is_chosen = rank_in_run(owners) < wanted
    owners, places = owners[is_chosen], places[is_chosen]
    return Peaks(owners, places, np.zeros(len(places), np.float32))


def rank_in_run(*keys: IntArray) -> IntArray:
    """Return the place of each row in its run of equal keys, from 0."""
    starts = np.flatnonzero(_changes(*keys))
    lengths = np.diff(np.append(starts, len(keys[0])))
    return np.arange(len(keys[0])) - np.repeat(starts, lengths)


def _changes(*keys: IntArray) -> npt.NDArray[np.bool_]:
    """Return where a run of equal keys begins."""
    begins = np.zeros(len(keys[0]), bool)
    begins[:1] = True
    for key in keys:
        begins[1:] |= key[1:] != key[:-1]
    return begins
