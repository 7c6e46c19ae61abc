"""Which contexts of a feature are shown, or may be: those that the first pass found, and draws.

Contexts with the feature are chosen here. Those without are drawn more often than wanted, since
only the second pass tells where the feature is off; a draw that is on is dropped, and of the others
the first ones stay. How often is reckoned from the feature's density and, for near misses, from the
share of its tokens' occurrences on which it fires; at most MOST_TRIES for each that is wanted.

Every draw is a hash of seed, feature, half and number, so results hang on the text alone.

F features, H halves, N top contexts, P sampled peaks, J draws, V token types, R rows.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepseemoe.config import FeaturesConfig
from deepseemoe.features.contexts import TOP, n_random, rank_in_run, width
from deepseemoe.features.halves import mixed
from deepseemoe.features.stream import Text
from deepseemoe.features.survey import Survey
from deepseemoe.features.text import IntArray

MOST_TRIES = 32
NEIGHBOUR_TRIES = 8
NEAR, NEIGHBOUR, RANDOM = 1, 2, 3
"""Purposes of draws; also how far behind the last quantile the group stands."""

BoolArray = npt.NDArray[np.bool_]
BitArray = npt.NDArray[np.uint64]


class Occurrences(NamedTuple):
    """Where each token stands: valid places by half, then token, then place."""

    places: IntArray
    starts: IntArray
    """(H, V + 1): the places of token v in half h are `starts[h, v]` to `starts[h, v + 1]`."""

    @classmethod
    def of(cls, text: Text) -> "Occurrences":
        """Return the places of all tokens."""
        n_types = int(text.token_ids.max(initial=0)) + 1
        places = np.flatnonzero(text.is_valid)
        half_T = np.repeat(text.half_S, np.diff(text.segments))
        keys = half_T[places].astype(np.int64) * n_types + text.token_ids[places]
        counts = np.bincount(keys, minlength=2 * n_types)
        edges = np.concatenate([[0], np.cumsum(counts)])
        rows = np.arange(2)[:, None] * n_types + np.arange(n_types + 1)
        return cls(places[np.argsort(keys, kind="stable")], edges[rows])

    def in_half(self, half: int) -> IntArray:
        """Return all valid places of a half."""
        return self.places[self.starts[half, 0] : self.starts[half, -1]]


class Rows(NamedTuple):
    """Contexts, shown or drawn, sorted by feature and place; (R,) each."""

    features: npt.NDArray[np.int32]
    halves: npt.NDArray[np.uint8]
    groups: npt.NDArray[np.uint8]
    order: npt.NDArray[np.int32]
    """Which come first in their group."""
    places: npt.NDArray[np.int64]

    def take(self, chosen: IntArray | BoolArray) -> "Rows":
        """Return some of the rows."""
        return Rows(*(column[chosen] for column in self))


class Sources(NamedTuple):
    """All that contexts are chosen from."""

    text: Text
    found: Survey
    occurrences: Occurrences
    neighbours: IntArray
    """(F, N) nearest first"""
    config: FeaturesConfig


def rows_of(sources: Sources, features: IntArray) -> Rows:
    """Return the contexts of some features, each place once: the first of its groups has it."""
    features = features[sources.found.sums_F["n_active"][features] > 0]
    parts = [part for part in _groups(sources, features) if len(part.places)]
    if not parts:
        return _rows(*(np.empty(0, np.int64) for _ in Rows._fields))
    rows = Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    keys = rows.features.astype(np.int64) * sources.text.n_tokens + rows.places
    order = np.argsort(keys, kind="stable")
    is_first = np.diff(keys[order], prepend=-1) > 0
    return rows.take(order[is_first])


def _groups(sources: Sources, features: IntArray) -> Iterator[Rows]:
    yield _top(sources.found, features)
    yield _quantiles(sources, features)
    last = sources.config.n_quantiles
    for purpose, draw in ((NEAR, _near), (NEIGHBOUR, _neighbour), (RANDOM, _random)):
        places_FHJ, is_drawn_FHJ = draw(sources, features)
        yield _chosen(
            features, last + purpose, np.arange(places_FHJ.shape[2]), places_FHJ, is_drawn_FHJ
        )


def _chosen(
    features: IntArray,
    groups: IntArray | int,
    order: IntArray,
    places_FHJ: IntArray,
    is_chosen: BoolArray,
) -> Rows:
    """Return rows where `is_chosen`; all is broadcast against (F, H, J)."""
    row, half, column = np.nonzero(is_chosen)
    where = row, half, column
    groups = np.broadcast_to(groups, is_chosen.shape)[where]
    order = np.broadcast_to(order, is_chosen.shape)[where]
    return _rows(features[row], half, groups, order, places_FHJ[where])


def _rows(*columns: IntArray) -> Rows:
    types = np.int32, np.uint8, np.uint8, np.int32, np.int64
    return Rows(*(column.astype(type_) for column, type_ in zip(columns, types, strict=True)))


def _top(found: Survey, features: IntArray) -> Rows:
    """Return the highest peaks, by falling activation, then place."""
    places, values = found.top_places[features], found.top_values[features]
    is_filled = np.arange(places.shape[2]) < found.halves_FH["n_top"][features][..., None]
    order = _ranks(np.where(is_filled, -values, np.inf), places)
    return _chosen(features, TOP, order, places, is_filled)


def _quantiles(sources: Sources, features: IntArray) -> Rows:
    """Return some of each quantile of the sampled peaks that are not among the top."""
    found, config = sources.found, sources.config
    places, values = found.pool_places[features], found.pool_values[features]
    n_top = found.halves_FH["n_top"][features]
    top = np.where(
        np.arange(config.n_top) < n_top[..., None], found.top_places[features], -1
    )  # (F, H, N)
    is_left = np.arange(places.shape[2]) < found.n_sampled_FH[features][..., None]
    for rank in range(config.n_top):
        is_left &= places != top[..., rank, None]
    priority = mixed(found.sums_F["salt"][features][:, None, None] ^ places.astype(np.uint64))
    rising = _ranks(np.where(is_left, values, np.inf), priority)
    n_left = is_left.sum(2, keepdims=True)
    quantile = rising * config.n_quantiles // np.maximum(n_left, 1)
    # By feature, half and quantile; in a quantile by priority.
    key = np.where(is_left, quantile, config.n_quantiles)
    order = np.lexsort((priority, key), axis=2)
    sorted_key = np.take_along_axis(key, order, 2)
    runs = np.arange(key.shape[0] * 2).repeat(key.shape[2]), sorted_key.ravel()
    rank = np.empty(key.shape, np.int64)
    np.put_along_axis(rank, order, rank_in_run(*runs).reshape(key.shape), 2)
    is_chosen = is_left & (rank < config.n_per_quantile)
    return _chosen(features, TOP + 1 + quantile, n_left - rising, places, is_chosen)


def _near(sources: Sources, features: IntArray) -> tuple[IntArray, BoolArray]:
    """Return places of tokens that the feature's peaks have, (F, H, J), and which are drawn.

    A token is drawn as often as it is a peak, and any of its occurrences in the half is as likely.
    """
    text, found, occurrences = sources.text, sources.found, sources.occurrences
    tries = _near_tries(sources, features)
    bits = _bits(found, features, NEAR, int(tries.max(initial=0)))
    n_sampled = found.n_sampled_FH[features][..., None]
    peak = (bits % np.maximum(n_sampled, 1).astype(np.uint64)).astype(np.int64)
    tokens = text.token_ids[np.take_along_axis(found.pool_places[features], peak, 2)]
    half = np.arange(2)[:, None]
    starts = occurrences.starts[half, tokens]
    counts = occurrences.starts[half, tokens + 1] - starts
    which = mixed(bits) % np.maximum(counts, 1).astype(np.uint64)
    is_drawn = (np.arange(bits.shape[2]) < tries[..., None]) & (n_sampled > 0)
    places = starts + which.astype(np.int64)
    return occurrences.places[np.where(is_drawn, places, 0)], is_drawn


def _near_tries(sources: Sources, features: IntArray) -> IntArray:
    """Return (F, H): how often to draw, by the share of occurrences that are no peaks."""
    text, found, occurrences = sources.text, sources.found, sources.occurrences
    n_sampled = found.n_sampled_FH[features][..., None]
    is_filled = np.arange(found.pool_places.shape[2]) < n_sampled
    tokens = text.token_ids[found.pool_places[features]].astype(np.int64)
    tokens = np.sort(np.where(is_filled, tokens, np.iinfo(np.int64).max), axis=2)
    runs = np.arange(tokens.shape[0] * 2).repeat(tokens.shape[2]), tokens.ravel()
    begins = rank_in_run(*runs) == 0
    run = np.cumsum(begins) - 1
    n_alike = np.bincount(run)[run].reshape(tokens.shape) if run.size else tokens
    known = np.where(is_filled, tokens, 0)
    half = np.arange(2)[:, None]
    n_places = occurrences.starts[half, known + 1] - occurrences.starts[half, known]
    n_peaks = found.halves_FH["n_peaks"][features][..., None]
    n_firing = n_alike * n_peaks / np.maximum(n_sampled, 1)
    share_off = np.clip(1 - n_firing / np.maximum(n_places, 1), 0, 1)
    mean = np.where(is_filled, share_off, 0).sum(2) / np.maximum(n_sampled[..., 0], 1)
    return _tries(sources.config.n_near, mean * _share_off(sources, features)[:, None])


def _neighbour(sources: Sources, features: IntArray) -> tuple[IntArray, BoolArray]:
    """Return peaks of the nearest features, (F, H, J): one of each, nearest first, then others."""
    found, wanted = sources.found, sources.config.n_neighbour
    n_neighbours = sources.neighbours.shape[1]
    n_draws = NEIGHBOUR_TRIES * wanted if n_neighbours else 0
    bits = _bits(found, features, NEIGHBOUR, n_draws)
    nearest = sources.neighbours[features][:, np.arange(n_draws) % max(n_neighbours, 1)]
    half = np.arange(2)[:, None]
    n_sampled = found.n_sampled_FH[nearest[:, None], half]
    peak = (bits % np.maximum(n_sampled, 1).astype(np.uint64)).astype(np.int64)
    return found.pool_places[nearest[:, None], half, peak], n_sampled > 0


def _random(sources: Sources, features: IntArray) -> tuple[IntArray, BoolArray]:
    """Return any valid places of the half that scores, (F, H, J)."""
    wanted = n_random(sources.config)
    tries = _tries(wanted, _share_off(sources, features))
    bits = _bits(sources.found, features, RANDOM, int(tries.max(initial=0)))
    is_drawn = np.zeros(bits.shape, bool)
    pool = sources.occurrences.in_half(1)
    if not len(pool):
        return np.zeros(bits.shape, np.int64), is_drawn
    is_drawn[:, 1] = np.arange(bits.shape[2]) < tries[:, None]
    return pool[(bits % np.uint64(len(pool))).astype(np.int64)], is_drawn


def _share_off(sources: Sources, features: IntArray) -> npt.NDArray[np.float64]:
    """Return (F,): the share of contexts without the feature, were its firings independent."""
    n_valid = max(len(sources.occurrences.places), 1)
    density = sources.found.sums_F["n_active"][features] / n_valid
    return (1 - np.minimum(density, 1)) ** width(sources.config)


def _tries(wanted: int, share_off: npt.NDArray[np.float64]) -> IntArray:
    """Return how many draws give `wanted` contexts without the feature, with something to spare."""
    enough = np.ceil(2 * wanted / np.maximum(share_off, 1e-9))
    return np.minimum(enough, MOST_TRIES * wanted).astype(np.int64)


def _bits(found: Survey, features: IntArray, purpose: int, n: int) -> BitArray:
    """Return (F, H, n) random bits."""
    stream = np.arange(2, dtype=np.uint64) + np.uint64(2 * purpose)
    start = mixed(found.sums_F["salt"][features][:, None] + stream)
    return mixed(start[:, :, None] + np.arange(n, dtype=np.uint64))


def _ranks(values: npt.NDArray[np.floating], ties: npt.NDArray[np.generic]) -> IntArray:
    """Return the rank of each entry along the last axis, from 0 for the lowest."""
    order = np.lexsort((ties, values), axis=-1)
    ranks = np.empty(order.shape, np.int64)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(order.shape[-1]), order.shape), -1)
    return ranks
