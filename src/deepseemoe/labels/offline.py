"""The offline labeller states the best rule about token, context or domain; it is no LLM.

Rules are fitted on the explaining documents and then executed on every token of the others. As a
null, each is executed against the activations of another feature of like frequency too: what a
rule scores above that it owes to its own feature.
"""

import json
import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from deepseemoe.features.halves import is_explaining
from deepseemoe.labels.counts import Firing
from deepseemoe.labels.explanation import Explanation, Labelled, Score
from deepseemoe.labels.fit import count_pairs, fit_all
from deepseemoe.labels.reading import IntArray, Reading
from deepseemoe.labels.rules import Rule, quoted, to_json
from deepseemoe.labels.scoring import Verdicts, score, swapped
from deepseemoe.labels.triggers import fit_triggers
from deepseemoe.runtime.progress import Progress

logger = logging.getLogger(__name__)

SCORER = "execution"
MIN_BALANCED_ACCURACY = 0.6
"""A rule that does worse on held-out documents, or whose interval reaches 0.5, is no clear rule."""

N_TOP_TOKENS = 5


class Half(NamedTuple):
    """One half of the documents: their text, and where the features fire in it."""

    reading: Reading
    firing: Firing


class OfflineLabeller:
    """Describe features by rules that can be executed."""

    name = "offline rules (no language model)"

    def __init__(self, reading: Reading, matrix: sparse.csr_array, *, random: np.random.Generator):
        """Take T tokens and their (T, F) activations."""
        self._reading, self._matrix, self._random = reading, matrix, random

    def label(self, features: Sequence[int]) -> list[Labelled]:
        """Return each feature with its best rule, or `no clear rule`, and the rule's scores."""
        is_explaining_T = is_explaining(self._reading.doc_ids)
        fitted, held_out = (
            self._half(features, is_explaining_T),
            self._half(features, ~is_explaining_T),
        )
        shared = np.intersect1d(fitted.reading.doc_ids, held_out.reading.doc_ids)
        assert not len(shared), f"documents {shared} explain and score at once"
        rules = best_rules(fitted)
        others = swapped(fitted.firing.n_positive, self._random)
        scores = execute(rules, others, held_out)
        tokens = top_tokens(fitted)
        n_clear = sum(is_clear(own) for own, _ in scores)
        logger.info("%d of %d features have a clear rule", n_clear, len(rules))
        return [
            Labelled(feature, self._explanation(rule, own, top), own, null)
            for feature, rule, (own, null), top in zip(features, rules, scores, tokens, strict=True)
        ]

    def _half(self, features: Sequence[int], chosen: npt.NDArray[np.bool_]) -> Half:
        reading = self._reading.only(chosen)
        return Half(reading, Firing.of(self._matrix[chosen], features, reading.is_valid))

    def _explanation(self, rule: Rule | None, own: Score, top: IntArray) -> Explanation:
        texts = self._reading.vocabulary.texts
        detail = json.dumps({"rule": rule and to_json(rule), "top_tokens": top.tolist()})
        if rule is not None and is_clear(own):
            return Explanation(rule.label(self._reading.vocabulary), rule.kind, detail)
        shown = quoted([texts[token] for token in top])
        label = "no clear rule" + (f"; top tokens {shown}" if shown else "")
        return Explanation(label, "unclear", detail)


def is_clear(own: Score) -> bool:
    """Return whether a rule does well enough on held-out documents to be a description."""
    return (
        own.balanced_accuracy is not None
        and own.lo is not None
        and own.balanced_accuracy >= MIN_BALANCED_ACCURACY
        and own.lo > 0.5
    )


def best_rules(half: Half) -> list[Rule | None]:
    """Return the best rule of each feature over all kinds; None where nothing repeats itself."""
    fitted = [*fit_all(half.reading, half.firing), fit_triggers(half.reading, half.firing)]
    merits = np.stack([one.merits for one in fitted])  # (kinds, F)
    best = merits.argmax(axis=0)
    return [
        fitted[kind].rule(feature) if merits[kind, feature] > 0 else None
        for feature, kind in enumerate(best)
    ]


def execute(
    rules: Sequence[Rule | None], others: IntArray, half: Half
) -> list[tuple[Score, Score | None]]:
    """Return the scores of each rule on its own feature and on `others`, by running it.

    A feature without a rule is scored as the rule that never applies. The null is None for a
    feature that is alone.
    """
    documents = np.unique(half.reading.doc_ids, return_inverse=True)[1]
    n_documents, is_valid = int(documents.max(initial=-1)) + 1, half.reading.is_valid
    n_valid = np.bincount(documents[is_valid], minlength=n_documents)
    progress = Progress("score rules", len(rules), unit="features")
    scores = []
    for feature, rule in enumerate(rules):
        applies = rule.applies(half.reading) & is_valid if rule else np.zeros_like(is_valid)
        covered = np.bincount(documents[applies], minlength=n_documents)
        own, null = (
            _verdicts(applies, half.firing.places_of(number), documents, covered, n_valid)
            for number in (feature, int(others[feature]))
        )
        is_alone = others[feature] == feature
        scores.append((score(SCORER, own), None if is_alone else score(SCORER, null)))
        progress.advance(1)
    return scores


def _verdicts(
    applies: npt.NDArray[np.bool_],
    places: IntArray,
    documents: IntArray,
    covered: IntArray,
    n_valid: IntArray,
) -> Verdicts:
    """Return how a rule did in each document on a feature that fires at `places`."""
    positives = np.bincount(documents[places], minlength=len(n_valid))
    hits = np.bincount(documents[places[applies[places]]], minlength=len(n_valid))
    negatives = n_valid - positives
    return Verdicts(hits, positives, negatives - (covered - hits), negatives)


def top_tokens(half: Half) -> list[IntArray]:
    """Return the tokens on which each feature fires most often, at most 5 of them."""
    pairs = count_pairs(half.firing, half.reading.token_ids.astype(np.int64), half.reading.doc_ids)
    order = np.lexsort((pairs.symbols, -pairs.counts, pairs.features))
    starts = np.searchsorted(pairs.features, np.arange(half.firing.n_features))
    stops = np.searchsorted(pairs.features, np.arange(half.firing.n_features), side="right")
    return [
        pairs.symbols[order[start : min(start + N_TOP_TOKENS, stop)]]
        for start, stop in zip(starts, stops, strict=True)
    ]
