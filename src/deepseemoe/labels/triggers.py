"""Fit `after “import” (within 3 tokens)`: the word and distance that tell best of a feature.

Counted densely over blocks of features: for each distance d, how many activations have the word d
tokens before and not nearer. Summed over distances up to n that is the number of activations that
the rule covers.

T tokens, F features, B features of a block, W candidate words.
"""

import numpy as np

from deepseemoe.labels.counts import Firing, merit
from deepseemoe.labels.fit import COST, Fitted
from deepseemoe.labels.reading import NONE, IntArray, Reading
from deepseemoe.labels.rules import AfterRule

WITHIN = (2, 3, 5, 8, 16)
"""Distances that are tried; directly after a token is a rule of its own."""

MAX_WORDS = 8192
"""Candidate words, the most frequent: rarer ones have too few activations behind them."""

MIN_DOCUMENTS = 3
"""Explaining documents that a trigger must occur in."""

BLOCK_ENTRIES = 1 << 20
"""Counters of one block of features, B x W."""


def fit_triggers(reading: Reading, firing: Firing) -> Fitted:
    """Return the best trigger of each feature."""
    words, numbers = candidates(reading)
    merits = np.full(firing.n_features, -np.inf)
    best = np.zeros((firing.n_features, 2), np.int64)  # word, distance
    if not len(words):
        return Fitted(merits, lambda feature: AfterRule("", 1))
    nearest = nearest_words(reading, numbers)
    covered = np.cumsum(
        [
            np.bincount(row[reading.is_valid & (row != NONE)], minlength=len(words))
            for row in nearest
        ],
        axis=0,
    )
    block = max(1, BLOCK_ENTRIES // len(words))
    for first in range(0, firing.n_features, block):
        chosen = slice(first, min(first + block, firing.n_features))
        merits[chosen], best[chosen] = _best_in_block(firing, chosen, nearest, covered)
    names = reading.vocabulary.words[0]
    return Fitted(
        merits - COST["after"],
        lambda feature: AfterRule(names[words[best[feature, 0]]], int(best[feature, 1])),
    )


def candidates(reading: Reading) -> tuple[IntArray, IntArray]:
    """Return the candidate words, (W,), and which candidate each token is, (T,), or NONE."""
    is_word = reading.words != NONE
    documents = reading.doc_ids[is_word].astype(np.int64)
    pairs = np.unique(reading.words[is_word] * (documents.max(initial=0) + 1) + documents)
    word, n_documents = np.unique(pairs // (documents.max(initial=0) + 1), return_counts=True)
    n_tokens = np.bincount(reading.words[is_word], minlength=len(reading.vocabulary.words[0]))
    word = word[n_documents >= MIN_DOCUMENTS]
    word = np.sort(word[np.argsort(-n_tokens[word], kind="stable")][:MAX_WORDS])
    table = np.full(len(n_tokens) + 1, NONE)  # the last entry serves words that are NONE
    table[word] = np.arange(len(word))
    return word, table[reading.words]


def nearest_words(reading: Reading, numbers: IntArray) -> IntArray:
    """Return (distances, T): the candidate d = 1, 2 … tokens before, if it stands no nearer."""
    rows = [reading.before(distance, numbers) for distance in range(1, WITHIN[-1] + 1)]
    for distance in range(len(rows) - 1, 0, -1):
        for nearer in range(distance):
            rows[distance] = np.where(rows[distance] == rows[nearer], NONE, rows[distance])
    return np.stack(rows)


def _best_in_block(
    firing: Firing, chosen: slice, nearest: IntArray, covered: IntArray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (B,) merits and (B, 2) words and distances of a block of features.

    One activation less is counted than there is, so that a word seen once with a feature is no
    find.
    """
    starts = firing.starts[chosen.start : chosen.stop + 1]
    places = firing.places[starts[0] : starts[-1]]
    n_block, n_words = len(starts) - 1, covered.shape[1]
    rows = np.repeat(np.arange(n_block), np.diff(starts)) * n_words
    n_positive = np.diff(starts)[:, None]
    hits = np.zeros(n_block * n_words, np.int64)
    merits, best = np.full(n_block, -np.inf), np.zeros((n_block, 2), np.int64)
    for distance, row in enumerate(nearest, start=1):
        here = row[places]
        hits += np.bincount((rows + here)[here != NONE], minlength=len(hits))
        if distance not in WITHIN:
            continue
        counted = np.maximum(hits.reshape(n_block, n_words) - 1, 0)
        merit_BW = merit(counted, covered[distance - 1], n_positive, firing.n_valid)
        word = merit_BW.argmax(axis=1)
        found = merit_BW[np.arange(n_block), word]
        is_better = found > merits
        merits[is_better] = found[is_better]
        best[is_better] = np.stack([word, np.full(n_block, distance)], axis=1)[is_better]
    return merits, best
