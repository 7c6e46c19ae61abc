"""How differently two domains use the experts of a layer: the Jensen-Shannon divergence, in bits.

Base 2, from 0 to 1, and the divergence itself, not its root, which is a distance. Each pair has a
null of its own, for which only the documents of the two swap domains: with the others among them,
it would be too wide where a third domain differs.

Axes: T tokens, D documents, C domains, E experts, B draws (the first is the data), P permutations.
"""

from typing import NamedTuple

import numpy as np

from deepseemoe.routing.information import Corrected, corrected, jensen_shannon
from deepseemoe.routing.specialisation import ByDomain, by_domain, label_nulls


class Divergences(NamedTuple):
    """The divergence in bits of each pair of domains, which are numbered in order."""

    first: np.ndarray
    second: np.ndarray
    divergence: Corrected


def domain_divergences(
    ids_TK: np.ndarray,
    domain_T: np.ndarray,
    document_T: np.ndarray,
    n_experts: int | None = None,
    *,
    n_permutations: int = 200,
    n_draws: int = 200,
    seed: int = 0,
) -> Divergences:
    """Return how differently domains use experts, pair by pair, with its null."""
    found = by_domain(ids_TK, domain_T, document_T, n_experts, n_draws=n_draws, seed=seed)
    return divergences_of(found, n_permutations=n_permutations, seed=seed)


def divergences_of(found: ByDomain, *, n_permutations: int, seed: int) -> Divergences:
    """Return the divergence of each pair of domains from the counts of documents."""
    sums_CBE = found.sums()
    first, second = np.triu_indices(found.n_domains, 1)
    parts = []
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        here = (found.domain_D == a) | (found.domain_D == b)
        bits_B = jensen_shannon(_or_nan(sums_CBE[a]), _or_nan(sums_CBE[b]))
        nulls_P = label_nulls(
            found.counts_DE[here], found.domain_D[here], _divergence_of_two, n_permutations, seed
        )
        parts.append(corrected(bits_B[0], nulls_P=nulls_P, draws_P=bits_B[1:]))
    columns = zip(*parts, strict=True) if parts else [[]] * len(Corrected._fields)
    return Divergences(first, second, Corrected(*(np.array(column) for column in columns)))


def _divergence_of_two(counts_2E: np.ndarray) -> float:
    return jensen_shannon(*_or_nan(counts_2E))


def _or_nan(counts: np.ndarray) -> np.ndarray:
    """Return counts along the last axis, NaN where all are 0: a draw without any document."""
    return np.where(counts.sum(-1, keepdims=True) > 0, counts, np.nan)
