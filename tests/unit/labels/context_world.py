"""Contexts of a planted feature that fires on the word `zebra`, as the scorers get them."""

import numpy as np

from deepseemoe.labels.contexts import Context, FeatureContexts

FILLER = [f" w{n}" for n in range(40)]


def context(group, doc_id, *, word=None, active=True, seed=0):
    """Return a context of 12 words; `word` stands at place 6 and is active, or not."""
    random = np.random.default_rng([seed, doc_id])
    tokens = [FILLER[n] for n in random.integers(len(FILLER), size=12)]
    activations = [0.0] * 12
    if word:
        tokens[6] = f" {word}"
        activations[6] = 1.0 + random.random() if active else 0.0
    return Context(group, doc_id, tokens, activations)


def feature_contexts(*, word="zebra", near="zebras", n=20, first=0):
    """Return contexts with the word, near misses with another, and random ones."""
    groups = [f"q{k % 10}" if k >= n // 2 else "top" for k in range(n)]
    made = [context(group, first + k, word=word) for k, group in enumerate(groups)]
    held = [context(group, first + 100 + k, word=word) for k, group in enumerate(groups)]
    looks = [context("near", first + 200 + k, word=near, active=False) for k in range(n // 2)]
    near_misses = [context("near", first + 300 + k, word=near, active=False) for k in range(n)]
    others = [context("random", first + 400 + k) for k in range(n)]
    return FeatureContexts(made, looks, held, others, near_misses)
