"""Which documents a description is made from, and which it is scored on: halves, never mixed.

By document and not by example: two contexts of one document share names, topic and layout, and a
description that was fitted to one is rewarded for that on the other. The half depends on `doc_id`
alone, so every feature, labeller and run over the same text uses the same halves.
"""

import numpy as np
import numpy.typing as npt


def is_explaining(doc_ids: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Return which documents descriptions are made from; the others are held out for scores."""
    return (mixed(doc_ids) >> np.uint64(63)) == 0


def mixed(numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    """Return 64 mixed bits of each number: the finaliser of splitmix64 (Steele et al. 2014)."""
    bits = np.asarray(numbers).astype(np.uint64)
    with np.errstate(over="ignore"):  # wrapping around is how it mixes
        bits = bits + np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
