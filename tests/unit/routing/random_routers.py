"""Routers with known answers: one that knows nothing, and ones that are told what to prefer.

Axes: T tokens, E experts, K top_k.
"""

import numpy as np


def choose(rng, n_tokens, n_experts, top_k, preference_TE=0.0):
    """Return the top k (T, K) of preferences plus Gumbel noise: without any, a uniform router."""
    scores_TE = preference_TE + rng.gumbel(size=(n_tokens, n_experts))
    return np.argsort(-scores_TE, axis=1)[:, :top_k]


def documents(rng, n_documents, length=50):
    """Return the document (T,) of tokens, of lengths from half of `length` to twice as much."""
    return np.repeat(np.arange(n_documents), rng.integers(length // 2, 2 * length, n_documents))


def moody(rng, document_T, n_experts, top_k, mood=1.0):
    """Return the top k (T, K) of a router that prefers other experts in each document."""
    mood_DE = mood * rng.normal(size=(document_T.max() + 1, n_experts))
    return choose(rng, document_T.size, n_experts, top_k, mood_DE[document_T])
