"""How much of an association is the token's identity: log odds within tokens of one type.

A feature that fires on one word and a router that sends the word to one expert go together without
either reading the other. Among the occurrences of a single token type that tie is cut: the
Mantel-Haenszel odds ratio pools the 2 x 2 tables of all types (Mantel and Haenszel 1959). It tells
what is left; it does not rank (it finds fewer planted pairs than plain log odds do).

Types are worked through in runs of similar numbers of tokens, one pass over the features each, so
that memory holds the activations on the types of one run.

Axes: T tokens, F features, I activations, X experts of all routing layers, V token types of a run.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from deepseemoe.experts import kernels
from deepseemoe.experts.join import Join

LEAST_OCCURRENCES = 4
"""Token types that are rarer than this say next to nothing and are left out."""

ENTRIES = 1 << 26
"""Activations held at once, of 8 bytes each."""


class Strata(NamedTuple):
    """Mantel-Haenszel sums (F, X): of pairs of tokens of one type that agree, and that differ.

    The other two weigh them by how many of the type's tokens agree, or differ, for the variance.
    """

    agree: np.ndarray
    differ: np.ndarray
    agree_agree: np.ndarray
    differ_differ: np.ndarray

    def layer(self, columns: slice) -> "Strata":
        """Return the sums of the experts in some columns."""
        return Strata(*(table[:, columns] for table in self))


def count_strata(joined: Join, features: np.ndarray) -> Strata:
    """Return the sums of `features` (ids, rising) with every expert."""
    sums_FPX = np.zeros((features.size, len(Strata._fields), joined.routing.n_columns))
    for types in _runs(joined.text.tokens, joined.text.n_active):
        _add_run(joined, features, types, sums_FPX)
    return Strata(*np.moveaxis(sums_FPX, 1, 0))


def log_odds_within(strata: Strata) -> tuple[np.ndarray, np.ndarray]:
    """Return the log odds ratio within token types, nats, and its standard error.

    Both NaN where no type says anything: one does where the feature fires on some of its
    occurrences but not on all. As to the cells of a single table, 1/2 is added to either side, so
    that little evidence gives a value near 0. The error is that of Robins, Breslow and Greenland
    (1986), which takes the tokens of a type as independent.
    """
    total = strata.agree + strata.differ
    r, s = strata.agree + 0.5, strata.differ + 0.5
    pr, qs = strata.agree_agree + 0.25, strata.differ_differ + 0.25
    variance = pr / (2 * r * r) + (r - pr + s - qs) / (2 * r * s) + qs / (2 * s * s)
    known = np.where(total > 0, 1.0, np.nan)
    return np.log(r / s) * known, np.sqrt(variance) * known


def token_share(lor: np.ndarray, lor_token: np.ndarray) -> np.ndarray:
    """Return which share of a log odds ratio goes away within token types: 1 - lor_token / lor.

    1 where nothing is left to compare: the feature fires on all occurrences of its types or on
    none. Above 1 where the sign turns; NaN where lor is 0.
    """
    share = 1 - np.divide(lor_token, lor, np.full(lor.shape, np.nan), where=lor != 0)
    return np.where(np.isnan(lor_token), 1.0, share)


def _runs(token_T: np.ndarray, n_active: int) -> Iterator[np.ndarray]:
    """Yield the types that occur often enough, in runs with about ENTRIES activations each."""
    occurrences = np.bincount(token_T)
    types = np.flatnonzero(occurrences >= LEAST_OCCURRENCES)
    per_token = n_active / token_T.size
    run = (np.cumsum(occurrences[types]) * per_token // ENTRIES).astype(np.int64)
    for one in np.unique(run):
        yield types[run == one]


def _add_run(joined: Join, features: np.ndarray, types: np.ndarray, sums_FPX: np.ndarray) -> None:
    """Add what the occurrences of some types say."""
    text, routing = joined.text, joined.routing
    place_of_type = np.full(int(text.tokens.max()) + 1, -1, np.int32)
    place_of_type[types] = np.arange(types.size, dtype=np.int32)
    place_T = place_of_type[text.tokens]
    at = np.flatnonzero(place_T >= 0)
    columns_TS = routing.columns(at)
    counts_VX = np.zeros((types.size, routing.n_columns), np.int32)
    kernels.add_choices(place_T[at], columns_TS, counts_VX)
    parts = [
        block.features_TF[np.flatnonzero(place_T[block.start : block.stop] >= 0)]
        for block in text.blocks(features)
    ]
    firing = sp.vstack(parts, format="csr").tocsc()
    kernels.add_strata(
        firing.indptr,
        firing.indices,
        place_T[at][firing.indices],
        np.bincount(place_T[at], minlength=types.size),
        counts_VX,
        columns_TS,
        sums_FPX,
    )
