"""Random numbers that depend on the seed and on what they are for, never on the order of jobs."""

import hashlib

import numpy as np


def seed_for(seed: int, *purpose: object) -> int:
    """Return a 63-bit seed for `purpose`, such as ("permute", "train", 3)."""
    text = repr((seed, *map(str, purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *purpose: object) -> np.random.Generator:
    """Return a numpy generator seeded for `purpose`."""
    return np.random.default_rng(seed_for(seed, *purpose))
