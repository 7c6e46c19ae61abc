"""Whether experts are for domains: OLMoE's equation 7, and how many bits the choice tells of it.

    share = tokens of the domain that choose e / tokens of the domain        chance: top_k / E
    information = I(domain; expert) in bits, the expert being one of a token's top_k at random

Documents carry domains, so the null gives the documents' domains to each other at random. That
keeps what tokens of a document have in common, which makes information out of nothing too.

Axes: T tokens, D documents, C domains, E experts, B draws (the first is the data), P permutations.
"""

from collections.abc import Callable
from math import lgamma
from typing import NamedTuple

import numpy as np

from deepseemoe.routing.arrays import check_labels, check_routing, count_experts
from deepseemoe.routing.bootstrap import interval_of, weighted_sums
from deepseemoe.routing.counts import count_rows
from deepseemoe.routing.information import (
    Corrected,
    corrected,
    entropy_bits,
    mutual_information,
)
from deepseemoe.routing.load import document_draws
from deepseemoe.runtime.seeds import generator

MIN_ARRANGEMENTS = 20
"""With fewer ways to hand out the domains no p can fall below .05, and there is none."""


class DomainShares(NamedTuple):
    """Share of each domain's tokens that choose each expert (C, E); intervals need documents."""

    domains: list
    n_tokens_C: np.ndarray
    share_CE: np.ndarray
    share_lo_CE: np.ndarray
    share_hi_CE: np.ndarray
    lift_CE: np.ndarray
    chance: float


class Specialisation(NamedTuple):
    """I(domain; expert) in bits; `share` is its corrected value over the lesser entropy of both."""

    information: Corrected
    share: float


class ByDomain(NamedTuple):
    """Tokens of each document that choose each expert, and the domain and draws of documents."""

    counts_DE: np.ndarray
    tokens_D: np.ndarray
    domain_D: np.ndarray
    draws_DB: np.ndarray
    n_domains: int

    def sums(self) -> np.ndarray:
        """Return the tokens of each domain that choose each expert in each draw (C, B, E)."""
        return _by_domain(self.counts_DE, self)

    def tokens(self) -> np.ndarray:
        """Return the tokens of each domain in each draw (C, B)."""
        return _by_domain(self.tokens_D[:, None], self)[..., 0]


def domain_shares(
    ids_TK: np.ndarray,
    domain_T: np.ndarray,
    n_experts: int | None = None,
    *,
    document_T: np.ndarray | None = None,
    n_draws: int = 200,
    seed: int = 0,
) -> DomainShares:
    """Return equation 7 of a layer; `domain_T` labels tokens by numbers or names."""
    names, top_k = np.unique(np.asarray(domain_T)), np.asarray(ids_TK).shape[-1]
    # Without documents a domain's tokens are one "document" of it.
    known = domain_T if document_T is None else document_T
    found = by_domain(ids_TK, domain_T, known, n_experts, n_draws=n_draws, seed=seed)
    counts_CBE, tokens_CB = found.sums(), found.tokens()
    if document_T is None:
        counts_CBE, tokens_CB = counts_CBE[:, :1], tokens_CB[:, :1]
    share_CBE = counts_CBE / np.where(tokens_CB > 0, tokens_CB, np.nan)[..., None]
    low_CE, high_CE = interval_of(share_CBE.swapaxes(0, 1))
    counts_E = counts_CBE[:, 0].sum(0)
    overall_E = np.where(counts_E > 0, counts_E, np.nan) / tokens_CB[:, 0].sum()
    share_CE = share_CBE[:, 0]
    return DomainShares(
        names.tolist(), tokens_CB[:, 0].astype(np.int64), share_CE, low_CE, high_CE,
        share_CE / overall_E, top_k / counts_CBE.shape[-1],
    )  # fmt: skip


def specialisation(
    ids_TK: np.ndarray,
    domain_T: np.ndarray,
    document_T: np.ndarray,
    n_experts: int | None = None,
    *,
    n_permutations: int = 200,
    n_draws: int = 200,
    seed: int = 0,
) -> Specialisation:
    """Return how much the chosen expert of a layer tells of the domain, with its null."""
    found = by_domain(ids_TK, domain_T, document_T, n_experts, n_draws=n_draws, seed=seed)
    return specialisation_of(found, n_permutations=n_permutations, seed=seed)


def by_domain(
    ids_TK: np.ndarray,
    domain_T: np.ndarray,
    document_T: np.ndarray,
    n_experts: int | None,
    *,
    n_draws: int,
    seed: int,
) -> ByDomain:
    """Return the counts of documents; raise ValueError where a document has two domains."""
    ids_TK = np.asarray(ids_TK)
    check_routing(ids_TK)
    n_experts = count_experts(ids_TK, n_experts)
    labels_T = check_labels(domain_T, len(ids_TK), "domain_T")
    names, label_T = np.unique(labels_T, return_inverse=True)
    place_T, draws_DB = document_draws(document_T, len(ids_TK), n_draws, seed)
    domain_D = np.zeros(len(draws_DB), np.int64)
    domain_D[place_T] = label_T
    if (domain_D[place_T] != label_T).any():
        raise ValueError("document_T: a document has tokens of two domains; give each its own id")
    counts_DE = count_rows(place_T, ids_TK, (len(draws_DB), n_experts))
    tokens_D = np.bincount(place_T, minlength=len(draws_DB))
    return ByDomain(counts_DE, tokens_D, domain_D, draws_DB, names.size)


def specialisation_of(found: ByDomain, *, n_permutations: int, seed: int) -> Specialisation:
    """Return I(domain; expert) from the counts of documents."""
    joint_BCE = found.sums().swapaxes(0, 1)
    nulls_P = label_nulls(found.counts_DE, found.domain_D, mutual_information, n_permutations, seed)
    bits_B = mutual_information(joint_BCE)
    bits = corrected(bits_B[0], nulls_P=nulls_P, draws_P=bits_B[1:])
    most = min(entropy_bits(joint_BCE[0].sum(1)), entropy_bits(joint_BCE[0].sum(0)))
    return Specialisation(bits, float(bits.value / most) if most > 0 else np.nan)


def n_arrangements(domain_D: np.ndarray) -> float:
    """Return in how many ways the documents can have these domains; infinite from e^700 on."""
    sizes = np.unique(domain_D, return_counts=True)[1]
    logs = lgamma(domain_D.size + 1) - sum(lgamma(size + 1) for size in sizes.tolist())
    return float(np.exp(logs)) if logs < 700 else float("inf")


def label_nulls(
    counts_DE: np.ndarray,
    domain_D: np.ndarray,
    measure: Callable[[np.ndarray], float],
    n_permutations: int,
    seed: int,
) -> np.ndarray:
    """Return a measure of (C, E) counts under permutations of the documents' domains (P,).

    None of them where there are too few ways to permute.
    """
    if n_arrangements(domain_D) < MIN_ARRANGEMENTS - 0.5:
        return np.zeros(0)
    rng = generator(seed, "permute domains")
    starts = np.flatnonzero(np.diff(np.sort(domain_D), prepend=-1))
    draws = (rng.permutation(domain_D.size) for _ in range(n_permutations))
    return np.array([measure(np.add.reduceat(counts_DE[order], starts)) for order in draws])


def _by_domain(counts_DX: np.ndarray, found: ByDomain) -> np.ndarray:
    sums = np.zeros((found.n_domains, found.draws_DB.shape[1], counts_DX.shape[1]))
    for domain in np.unique(found.domain_D):
        here = found.domain_D == domain
        sums[domain] = weighted_sums(counts_DX[here], found.draws_DB[here])
    return sums
