"""Score rules by running them on held-out documents.

`execution` judges every valid token. `hard` judges, beside the tokens on which the feature fires,
only those of the same types on which it does not: a rule that only names tokens gets half of it
right there.

T tokens, N documents, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numba
import numpy as np

from deepseemoe.labels.counts import Firing
from deepseemoe.labels.explanation import Score
from deepseemoe.labels.reading import BoolArray, IntArray, Reading
from deepseemoe.labels.rules import Rule
from deepseemoe.labels.scoring import Verdicts, score
from deepseemoe.runtime.progress import Progress

SCORERS = ("execution", "hard")


class Half(NamedTuple):
    """One half of the documents: their text, and where the features fire in it."""

    reading: Reading
    firing: Firing


class Scored(NamedTuple):
    """What a rule scores, for each of SCORERS."""

    own: tuple[Score, ...]
    null: tuple[Score | None, ...]
    """On another feature; None for a feature that is alone"""
    precision: float
    """Share of the tokens that the rule covers on which the feature fires"""


def execute(rules: Sequence[Rule | None], others: IntArray, half: Half) -> list[Scored]:
    """Return the scores of each rule on its own feature and on `others`, by running it.

    A feature without a rule is scored as the rule that never applies.
    """
    reading = half.reading
    documents = np.unique(reading.doc_ids, return_inverse=True)[1]
    progress = Progress("score rules", len(rules), unit="features")
    judge = _Judge(reading, documents)
    found = []
    for feature, rule in enumerate(rules):
        applies = rule.applies(reading) if rule else np.zeros(len(documents), bool)
        own = judge.verdicts(applies, half.firing.places_of(feature))
        other = int(others[feature])
        null: tuple[Score | None, ...] = (None,) * len(SCORERS)
        if other != feature:
            null = _scores(judge.verdicts(applies, half.firing.places_of(other)))
        right, wrong = own[0].true_positives.sum(), (own[0].negatives - own[0].true_negatives).sum()
        found.append(Scored(_scores(own), null, float(right / max(right + wrong, 1))))
        progress.advance(1)
    return found


def _scores(verdicts: Sequence[Verdicts]) -> tuple[Score, ...]:
    return tuple(score(name, one) for name, one in zip(SCORERS, verdicts, strict=True))


class _Judge:
    """Counts verdicts by document; keeps its tables between features."""

    def __init__(self, reading: Reading, documents: IntArray):
        self._reading, self._documents = reading, documents
        self._fires = np.zeros(len(documents), bool)
        self._is_type = np.zeros(len(reading.vocabulary.texts), bool)

    def verdicts(self, applies: BoolArray, places: IntArray) -> list[Verdicts]:
        """Return how a rule did in each document on a feature that fires at `places`."""
        reading = self._reading
        types = reading.token_ids[places]
        self._fires[places], self._is_type[types] = True, True
        counts = _count(
            applies,
            self._fires,
            reading.is_valid,
            reading.token_ids,
            self._is_type,
            self._documents,
            int(self._documents.max(initial=-1)) + 1,
        )
        self._fires[places], self._is_type[types] = False, False
        return [Verdicts(counts[0], counts[1], *counts[2:4]), Verdicts(*counts[[0, 1, 4, 5]])]


@numba.njit(cache=True, nogil=True)
def _count(
    applies: BoolArray,
    fires: BoolArray,
    is_valid: BoolArray,
    token_ids: IntArray,
    is_type: BoolArray,
    documents: IntArray,
    n_documents: int,
) -> IntArray:
    """Return (6, N): hits, positives, then right and all negatives of either scorer."""
    counts = np.zeros((6, n_documents), np.int64)
    for t in range(len(applies)):
        if not is_valid[t]:
            continue
        n, applied = documents[t], applies[t]
        if fires[t]:
            counts[0, n] += applied
            counts[1, n] += 1
            continue
        counts[2, n] += not applied
        counts[3, n] += 1
        if is_type[token_ids[t]]:
            counts[4, n] += not applied
            counts[5, n] += 1
    return counts
