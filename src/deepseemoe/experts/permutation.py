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

Axes: T tokens, D documents, F features, X experts of all routing layers.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy import stats

from deepseemoe.experts.documents import Block, Documents
from deepseemoe.experts.join import Join
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.seeds import generator

STRATUM = 25
"""Documents of like length among which routing is permuted."""

BATCH_BYTES = 1 << 29
"""Memory for the counts of the permutations that share one pass over the features."""


class Null(NamedTuple):
    """Distribution of sqrt(count + 3/8) over permutations, each (F, X), and one more draw of it."""

    mean: np.ndarray
    deviation: np.ndarray
    n_permutations: int
    held_out: np.ndarray


def permute(joined: Join, features: np.ndarray, *, n_permutations: int, seed: int) -> Null:
    """Return the null of the joint counts of `features` with every expert.

    Costs `n_permutations` + 1 sparse products of all activations with the routing table. One
    permutation is held out, for a check of the p values on data in which nothing is to be found.
    """
    shape = (features.size, joined.routing.n_columns)
    batch = max(1, BATCH_BYTES // max(4 * features.size * shape[1], 1))
    total, squares, counts = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    progress = Progress("permutations", n_permutations + 1, unit="permutations")
    for first in range(0, n_permutations + 1, batch):
        draws = range(first, min(first + batch, n_permutations + 1))
        for draw, counts in zip(draws, permuted_counts(joined, features, draws, seed), strict=True):
            if draw < n_permutations:
                total += stabilised(counts)
                squares += counts + 0.375
        progress.advance(len(draws))
    mean = total / n_permutations
    variance = np.maximum(squares - n_permutations * mean**2, 0) / (n_permutations - 1)
    return Null(mean, np.sqrt(variance), n_permutations, counts.copy())


def stabilised(counts: np.ndarray) -> np.ndarray:
    """Return counts on the scale on which a Poisson variable has nearly constant variance."""
    return np.sqrt(counts + 0.375)


def z_scores(counts: np.ndarray, null: Null) -> np.ndarray:
    """Return how many standard deviations counts lie above their null; 0 where it does not vary.

    The factor sqrt(1 + 1/n) is for the null's mean, which is estimated from n permutations.
    """
    deviation = null.deviation * np.sqrt(1 + 1 / null.n_permutations)
    difference = stabilised(counts) - null.mean
    return np.divide(difference, deviation, np.zeros_like(difference), where=deviation > 1e-9)


def p_values(z: np.ndarray, n_permutations: int) -> np.ndarray:
    """Return two-sided tails of the t distribution with `n_permutations` - 1 degrees of freedom."""
    return 2 * stats.t.sf(np.abs(z), n_permutations - 1)


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
    text, routing = joined
    pis = [permutation(text.documents, seed, draw) for draw in draws]
    counts = np.zeros((len(draws), features.size, routing.n_columns), np.int32)
    for block in text.blocks(features):
        fires_FT = _transposed(block)
        for place, pi in enumerate(pis):
            rows = permuted_rows(text.documents, pi, block.start, block.stop)
            counts[place] += fires_FT @ routing.chosen(rows, np.int32)
    return counts


def _transposed(block: Block) -> sp.csr_array:
    """Return where features fire as int32 ones (F, T); integers keep counts exact."""
    columns = block.features_TF.tocsc()
    parts = (np.ones(columns.nnz, np.int32), columns.indices, columns.indptr)
    return sp.csr_array(parts, shape=columns.shape[::-1])
