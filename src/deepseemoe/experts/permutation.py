"""The null of the map of reads: what counts come out where documents swap their routing.

Tokens of one document resemble each other in features and in routing, so a test that takes tokens
as independent finds thousands of pairs in noise (15 to 41 % at a nominal 1 %). Here the tokens of
document d read the routing of document pi(d), at the same offset modulo its length. That
keeps the features of a document together and its routing together, and breaks only what ties the
two.

Two choices were settled by simulation (benchmarks/map_calibration.py prints the numbers):
- pi moves documents among the `STRATUM` ones nearest in length. Where both features and routing
  depend on the length of a document, free permutation rejects 40 % of true nulls at a nominal 5 %.
- counts are compared on the scale sqrt(count + 3/8) (Anscombe 1948), where their null distribution
  is near to symmetric, and p is the tail of a t distribution. On the scale of counts p is too
  small by up to four times at 1e-4, where false discovery rates are decided.

Draws come in rounds, and after each a feature is left out whose pairs are all *settled*: ENOUGH
draws at least would reach the observed count, as Besag and Clifford (1991) stop, or it stands so
far out that no test of this size could lose it. Both are read off the t tail, so that p needs no
correction for the stop.

Axes: T tokens, D documents, F features, X experts of all routing layers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import stats

from deepseemoe.experts import kernels
from deepseemoe.experts.discovery import SURE
from deepseemoe.experts.documents import Documents
from deepseemoe.experts.join import Join
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.seeds import generator

STRATUM = 25
"""Documents of like length among which routing is permuted."""

BATCH_BYTES = 1 << 30
"""Memory for the counts of the permutations that share one pass over the features."""

FIRST_ROUND = 50
"""Permutations before the first look; each further round doubles their number."""

ENOUGH = 20
"""Expected draws beyond the observed count from which on a pair is settled as not found."""


class Null(NamedTuple):
    """Distribution of sqrt(count + 3/8) over permutations, each (F, X), and one more draw of it.

    `n_draws_F` is how many permutations each feature took part in.
    """

    mean: np.ndarray
    deviation: np.ndarray
    n_draws_F: np.ndarray
    held_out: np.ndarray

    def layer(self, columns: slice) -> "Null":
        """Return the null of the experts in some columns."""
        parts = {
            name: getattr(self, name)[:, columns] for name in ("mean", "deviation", "held_out")
        }
        return self._replace(**parts)


def permute(
    joined: Join,
    features: np.ndarray,
    *,
    n_permutations: int,
    seed: int,
    both: np.ndarray | None = None,
    is_tested: np.ndarray | None = None,
) -> Null:
    """Return the null of the joint counts of `features` with every expert.

    Costs up to `n_permutations` + 1 sparse products of all activations with the routing. With the
    observed counts `both` (F, X) and which pairs are tested, settled features drop out between
    rounds. One permutation is held out, for a check of the p values on data in which nothing is to
    be found.
    """
    shape = (features.size, joined.routing.n_columns)
    total, squares, n_draws_F = np.zeros(shape), np.zeros(shape), np.zeros(shape[0], np.int64)
    held_out = np.zeros(shape, np.int32)
    alive, done = np.arange(features.size), 0
    progress = Progress("permutations", n_permutations, unit="permutations")
    for stop in _rounds(n_permutations):
        for counts in _draws(joined, features[alive], range(done, stop), seed):
            kernels.add_roots(counts, alive, total, squares)
        n_draws_F[alive] = stop
        progress.advance(stop - done)
        done = stop
        if both is not None and alive.size:
            null = _null(total[alive], squares[alive], n_draws_F[alive], held_out[alive])
            tested = slice(None) if is_tested is None else is_tested[alive]
            alive = alive[~_is_settled(both[alive], null, tested)]
    for counts in _draws(joined, features, range(n_permutations, n_permutations + 1), seed):
        held_out[:] = counts
    return _null(total, squares, n_draws_F, held_out)


def _rounds(n_permutations: int) -> list[int]:
    """Return after how many permutations each round ends."""
    ends = [FIRST_ROUND * 2**place for place in range(n_permutations.bit_length())]
    return [end for end in ends if end < n_permutations] + [n_permutations]


def _draws(joined: Join, features: np.ndarray, draws: range, seed: int) -> Iterator[np.ndarray]:
    """Yield the counts (F, X) of each draw, from as few passes as memory allows."""
    size = max(1, BATCH_BYTES // max(4 * features.size * joined.routing.n_columns, 1))
    for first in range(draws.start, draws.stop, size):
        some = range(first, min(first + size, draws.stop))
        yield from permuted_counts(joined, features, some, seed)


def _null(
    total: np.ndarray, squares: np.ndarray, n_draws_F: np.ndarray, held_out: np.ndarray
) -> Null:
    n = n_draws_F[:, None]
    mean = total / n
    variance = np.maximum(squares - n * mean**2, 0) / (n - 1)
    return Null(mean, np.sqrt(variance), n_draws_F, held_out)


def _is_settled(both: np.ndarray, null: Null, tested: np.ndarray | slice) -> np.ndarray:
    """Return which features (F,) have no tested pair that further draws could decide otherwise."""
    n, z = null.n_draws_F[:, None], np.abs(z_scores(both, null))
    least = z * (1 - 2 / np.sqrt(2 * n))  # the deviation may be two of its standard errors larger
    is_null = n * p_values(z, n) >= ENOUGH
    is_found = p_values(least, n) < SURE / max(both.size, 1)
    is_open = ~(is_null | is_found)
    return ~(is_open if isinstance(tested, slice) else is_open & tested).any(axis=1)


def stabilised(counts: np.ndarray) -> np.ndarray:
    """Return counts on the scale on which a Poisson variable has nearly constant variance."""
    return np.sqrt(counts + 0.375)


def z_scores(counts: np.ndarray, null: Null) -> np.ndarray:
    """Return how many standard deviations counts lie above their null; 0 where it does not vary.

    The factor sqrt(1 + 1/n) is for the null's mean, which is estimated from n permutations.
    """
    deviation = null.deviation * np.sqrt(1 + 1 / null.n_draws_F[:, None])
    difference = stabilised(counts) - null.mean
    return np.divide(difference, deviation, np.zeros_like(difference), where=deviation > 1e-9)


def p_values(z: np.ndarray, n_draws: np.ndarray | int) -> np.ndarray:
    """Return two-sided tails of the t distribution with `n_draws` - 1 degrees of freedom."""
    return 2 * stats.t.sf(np.abs(z), np.asarray(n_draws) - 1)


def permutation(documents: Documents, seed: int, draw: int) -> np.ndarray:
    """Return pi (D,): whose routing each document reads, one of like length."""
    rng = generator(seed, "permute documents", draw)
    lengths = documents.lengths
    pi = np.arange(lengths.size)
    by_length = np.argsort(lengths, kind="stable")
    for stratum in np.array_split(by_length, max(lengths.size // STRATUM, 1)):
        pi[stratum] = rng.permutation(stratum)
    return pi


def permuted_rows(documents: Documents, pi: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return which routing row each row from `start` to `stop` (whole documents) reads."""
    document = documents.between(start, stop)
    offset = np.arange(start, stop) - documents.starts[document]
    source = pi[document]
    return documents.starts[source] + offset % documents.lengths[source]


def permuted_counts(joined: Join, features: np.ndarray, draws: range, seed: int) -> np.ndarray:
    """Return the joint counts (draws, F, X) of some permutations, from one pass of features."""
    text, routing = joined.text, joined.routing
    pis = [permutation(text.documents, seed, draw) for draw in draws]
    counts = np.zeros((len(draws), features.size, routing.n_columns), np.int32)
    for block in text.blocks(features):
        firing = block.features_TF.tocsc()
        for place, pi in enumerate(pis):
            rows = permuted_rows(text.documents, pi, block.start, block.stop)
            kernels.add_joint(firing.indptr, firing.indices, routing.columns(rows), counts[place])
    return counts
