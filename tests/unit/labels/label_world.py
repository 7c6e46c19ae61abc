"""A text in which features follow known rules, and features that follow none.

A planted feature misses a tenth of the tokens of its rule, and fires on as many others.
"""

import numpy as np
from scipy import sparse

from deepseemoe.labels.reading import Reading, Vocabulary

WORDS = [" def", " class", " of", " the", " king", " import", " Import", "\n", ",", "é"]
DIGITS = [f" {n}" for n in range(10)]
FILLER = [f" w{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(150)]
TEXTS = ["<s>", *WORDS, *DIGITS, *FILLER]
ID = {text: n for n, text in enumerate(TEXTS)}
DOMAINS = ("code", "law", "news", "verse")
SEQUENCE = 64

PLANTED = ("token", "previous", "bigram", "after", "domain", "shape", "position")
N_RANDOM = 13


def make_reading(*, n_tokens=40_000, seed=0):
    """Return a text of documents of 30 to 150 tokens in sequences of 64; rarer words come later."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(30, 150, n_tokens // 30)
    doc_ids = np.repeat(np.arange(len(lengths)), lengths)[:n_tokens]
    domain_of = rng.integers(0, len(DOMAINS), len(lengths))
    opens = np.arange(n_tokens) % SEQUENCE == 0
    opens[1:] |= doc_ids[1:] != doc_ids[:-1]
    positions = np.arange(n_tokens) - np.maximum.accumulate(np.where(opens, np.arange(n_tokens), 0))
    share = 1 / (np.arange(1, len(TEXTS)) + 10)
    token_ids = rng.choice(np.arange(1, len(TEXTS)), n_tokens, p=share / share.sum())
    token_ids[opens] = 0
    return Reading(
        vocabulary=Vocabulary(TEXTS),
        domain_names=DOMAINS,
        token_ids=token_ids,
        doc_ids=doc_ids,
        positions=positions,
        is_valid=positions > 0,
        domains=domain_of[doc_ids],
    )


def planted_masks(reading):
    """Return where each planted rule holds, in the order of PLANTED, by plain formulas."""
    token = reading.token_ids
    before = np.roll(token, 1)
    before[reading.positions == 0] = -1
    after = np.zeros(len(token), bool)
    for distance in (1, 2, 3):
        shifted = np.roll(token, distance)
        after |= np.isin(shifted, [ID[" import"], ID[" Import"]]) & (reading.positions >= distance)
    masks = [
        np.isin(token, [ID[" def"], ID[" class"]]),
        before == ID[" of"],
        (before == ID[" the"]) & (token == ID[" king"]),
        after,
        reading.domains == DOMAINS.index("code"),
        np.isin(token, [ID[text] for text in DIGITS]),
        reading.positions < 4,
    ]
    return np.stack(masks, axis=1) & reading.is_valid[:, None]


def make_matrix(reading, *, seed=0, noise=True):
    """Return activations (T, F): the planted features, then random ones of rising density."""
    rng = np.random.default_rng([seed, 1])
    fires = planted_masks(reading)
    if noise:
        elsewhere = rng.random(fires.shape) < 0.1 * fires.mean(axis=0)
        fires = fires & (rng.random(fires.shape) < 0.9) | elsewhere
    densities = np.geomspace(0.002, 0.1, N_RANDOM)
    fires = np.hstack([fires, rng.random((len(fires), N_RANDOM)) < densities])
    fires &= reading.is_valid[:, None]
    return sparse.csr_array((fires * rng.gamma(3, 1, fires.shape)).astype(np.float32))
