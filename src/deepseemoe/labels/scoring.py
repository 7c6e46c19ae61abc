"""Balanced accuracy with an interval that knows that tokens of one document are alike.

Each rate (of positives, of negatives) gets a Wilson interval at its effective sample size, n over
the design effect of sampling whole documents (Korn and Graubard 1998); where no error was seen
there is no variance to go by, and the number of documents counts. The two are joined by their
squared distances (MOVER, Zou and Donner 2008), which keeps the interval inside 0 and 1.

N documents.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepseemoe.labels.explanation import Score

Z_95 = 1.959963984540054
"""Both-sided 95 % of the normal distribution."""


class Rate(NamedTuple):
    """A share with its interval."""

    value: float
    lo: float
    hi: float


class Verdicts(NamedTuple):
    """What was judged in each document; (N,) each."""

    true_positives: npt.NDArray[np.integer]
    positives: npt.NDArray[np.integer]
    true_negatives: npt.NDArray[np.integer]
    negatives: npt.NDArray[np.integer]


def score(scorer: str, verdicts: Verdicts, *, n_failed: int = 0) -> Score:
    """Return the balanced accuracy of verdicts; None where either class is empty."""
    n_positive, n_negative = int(verdicts.positives.sum()), int(verdicts.negatives.sum())
    if not n_positive or not n_negative:
        told = f"{n_positive} with it and {n_negative} without it to judge by"
        unknown = (scorer, n_positive, n_negative, None, None, None, n_failed)
        return Score(*unknown, status="few_contexts", reason=told)
    hit = document_rate(verdicts.true_positives, verdicts.positives)
    spared = document_rate(verdicts.true_negatives, verdicts.negatives)
    middle = (hit.value + spared.value) / 2
    below = np.hypot(hit.value - hit.lo, spared.value - spared.lo) / 2
    above = np.hypot(hit.hi - hit.value, spared.hi - spared.value) / 2
    lo, hi = max(middle - float(below), 0.0), min(middle + float(above), 1.0)
    return Score(scorer, n_positive, n_negative, middle, lo, hi, n_failed)


def document_rate(right: npt.NDArray[np.integer], items: npt.NDArray[np.integer]) -> Rate:
    """Return the share of items that are right; both are counts (N,) by document, not all 0."""
    has_items = items > 0
    right, items = right[has_items].astype(float), items[has_items].astype(float)
    n_items, n_documents = items.sum(), len(items)
    rate = right.sum() / n_items
    spread = ((right - rate * items) ** 2).sum() / n_items**2
    variance = spread * n_documents / max(n_documents - 1, 1)
    effective = rate * (1 - rate) / variance if variance > 0 else float(n_documents)
    return wilson(float(rate), float(min(effective, n_items)))


def wilson(rate: float, n: float) -> Rate:
    """Return the 95 % interval of a share of n items (Wilson 1927); n need not be whole."""
    shrink = 1 + Z_95**2 / n
    middle = (rate + Z_95**2 / (2 * n)) / shrink
    half = Z_95 * np.sqrt(rate * (1 - rate) / n + Z_95**2 / (4 * n**2)) / shrink
    return Rate(rate, min(float(middle - half), rate), max(float(middle + half), rate))


def swapped(
    n_positive: npt.NDArray[np.integer], random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return, for each feature, another one that fires about as often; itself only if it is alone.

    Features are sorted by frequency and cut into blocks of 8 to 15; within a block each is given
    another's place, by a cyclic shift of a random order.
    """
    order = np.lexsort((random.random(len(n_positive)), n_positive))
    others = np.empty(len(order), np.int64)
    for block in np.array_split(order, max(len(order) // 8, 1)):
        shuffled = random.permutation(block)
        others[shuffled] = np.roll(shuffled, 1)
    return others
