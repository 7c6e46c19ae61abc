"""Worlds in which nothing is to be found: features and routing that are independent.

Both are still correlated along their documents, as real ones are; a test that takes tokens as
independent finds thousands of pairs here.

Axes: T tokens, D documents, F features, L layers, E experts, K top_k.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
import scipy.sparse as sp

from deepseemoe.runtime.seeds import generator
from deepseemoe.trust import topics, worlds
from deepseemoe.trust.world import World, choose, lasting, smooth


def null_world(
    seed: int,
    *,
    n_documents: int = 200,
    n_features: int = 100,
    n_experts: int = 16,
    top_k: int = 4,
    spans: float = 8.0,
    memory: float = 4.0,
    document_level: float = 0.0,
    by_length: bool = False,
    density: tuple[float, float] = (0.003, 0.1),
) -> World:
    """Return features and routing that are independent, each correlated along its documents.

    `spans` is the mean length of a firing, `memory` the correlation length of router logits,
    `document_level` how much both depend on the document; `by_length` lets both depend on its
    length.
    """
    rng = generator(seed, "null world")
    lengths_D = worlds.lengths(rng, n_documents)
    document_T = np.repeat(np.arange(n_documents), lengths_D)
    rate_F = np.exp(rng.uniform(*np.log(density), n_features))
    taste_DF = np.exp(1.5 * document_level * rng.normal(size=(n_documents, n_features)))
    taste_DF /= taste_DF.mean(0)
    mood_DE = document_level * rng.normal(size=(n_documents, n_experts))
    if by_length:
        rank_D = (np.argsort(np.argsort(lengths_D)) / n_documents - 0.5)[:, None]
        taste_DF *= np.exp(2 * rank_D * rng.normal(size=n_features))
        mood_DE += 2 * rank_D * rng.normal(size=n_experts)
    starts_TF = rng.random((document_T.size, n_features)) < (rate_F * taste_DF / spans)[document_T]
    fires_TF = lasting(rng, starts_TF, document_T, spans)
    noise_TE = smooth(rng.normal(size=(document_T.size, n_experts)), memory)
    logits_TLE = (noise_TE + mood_DE[document_T] + 0.7 * rng.normal(size=n_experts))[:, None]
    experts_TLK, weights_TLK = choose(logits_TLE, top_k)
    values_TF = sp.csr_array(fires_TF * rng.lognormal(0, 0.3, fires_TF.shape)).astype(np.float32)
    token_T = rng.integers(50, size=document_T.size)
    domain_D = np.zeros(n_documents, int)
    return World(document_T, token_T, domain_D, values_TF, experts_TLK, weights_TLK, n_experts)


def other_routing(seed: int, make: Callable[[int], World]) -> World:
    """Return the features of one world with the routing of another, document by document.

    Everything is as in a planted world but that the routing was made by other text: document d
    reads that of document d there, from its first token on, again and again where it is longer.
    """
    ours, theirs = make(seed), make(seed + 1_000_003)
    starts = np.searchsorted(theirs.document_T, np.arange(theirs.document_T[-1] + 2))
    offset_T = np.arange(ours.document_T.size) - np.searchsorted(ours.document_T, ours.document_T)
    length_T = np.diff(starts)[ours.document_T]
    rows = starts[ours.document_T] + offset_T % length_T
    return World(
        ours.document_T,
        ours.token_T,
        ours.domain_D,
        ours.features_TF,
        theirs.experts_TLK[rows],
        theirs.weights_TLK[rows],
        ours.n_experts,
    )


NULLS: Mapping[str, Callable[[int], World]] = MappingProxyType(
    {
        "independent": partial(null_world, spans=1.0, memory=0.0),
        "spans": null_world,
        "documents": partial(null_world, document_level=1.0),
        "lengths": partial(null_world, by_length=True),
        "other-routing": partial(other_routing, make=worlds.world),
        "other-routing-topics": partial(other_routing, make=topics.world),
    }
)
"""Nulls by name, made from a seed."""
