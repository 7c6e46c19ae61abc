"""The offline labeller states the best rule about token, context or domain; it is no LLM.

Rules are fitted on the explaining documents and then executed on every token of the others. As a
null, each is executed against the activations of another feature of like frequency too: what a
rule scores above that it owes to its own feature.
"""

import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from deepseemoe.features.halves import is_explaining
from deepseemoe.labels.counts import Firing
from deepseemoe.labels.execution import Half, Scored, execute
from deepseemoe.labels.explanation import Explanation, Labelled
from deepseemoe.labels.fit.best import Search
from deepseemoe.labels.fit.sets import top_symbols
from deepseemoe.labels.reading import IntArray, Reading
from deepseemoe.labels.rules import Rule, quoted, to_json
from deepseemoe.labels.scoring import swapped

logger = logging.getLogger(__name__)

MIN_BALANCED_ACCURACY = 0.6
"""A rule that does worse on held-out documents is no description."""

CHANCE = 0.5
"""The 95 % interval of a clear rule lies above it: so 2.5 % of features without a rule may pass,
however many rules were tried, since these were tried on other documents."""

LONG = 12
"""Symbols of a set; with more it must be precise, or it is a list of what is frequent."""

MIN_PRECISION = 0.6

N_TOP_TOKENS = 5


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
        scored = execute(rules, others, held_out)
        tokens = top_symbols(fitted.firing, fitted.reading.token_ids, N_TOP_TOKENS)
        labelled = [
            Labelled(feature, self._explanation(rule, one, top), one.own, one.null)
            for feature, rule, one, top in zip(features, rules, scored, tokens, strict=True)
        ]
        n_clear = sum(one.explanation.status == "labelled" for one in labelled)
        logger.info("%d of %d features have a clear rule", n_clear, len(rules))
        return labelled

    def _half(self, features: Sequence[int], chosen: npt.NDArray[np.bool_]) -> Half:
        reading = self._reading.only(chosen)
        return Half(reading, Firing.of(self._matrix[chosen], features, reading.is_valid))

    def _explanation(self, rule: Rule | None, scored: Scored, top: IntArray) -> Explanation:
        texts = self._reading.vocabulary.texts
        found = rule and to_json(rule)
        detail = json.dumps({"rule": found, "top_tokens": top.tolist()})
        reason = why_unclear(rule, scored)
        if rule is not None and not reason:
            return Explanation(rule.label(self._reading.vocabulary), rule.kind, detail)
        shown = quoted([texts[token] for token in top])
        label = "no clear rule" + (f"; top tokens {shown}" if shown else "")
        return Explanation(label, "unclear", detail, "unclear", reason)


def best_rules(half: Half) -> list[Rule | None]:
    """Return the best rule of each feature over all kinds; None where nothing repeats itself."""
    return Search(*half).rules()


def why_unclear(rule: Rule | None, scored: Scored) -> str:
    """Return why a rule is no description, by held-out documents; empty where it is one."""
    if rule is None:
        return "no rule fits the explaining documents"
    own = scored.own[0]
    if own.balanced_accuracy is None or own.lo is None:
        return "the feature does not fire in the held-out documents"
    if own.lo <= CHANCE:
        return "on held-out documents the best rule may do no better than chance"
    if own.balanced_accuracy < MIN_BALANCED_ACCURACY:
        return f"the best rule has balanced accuracy {own.balanced_accuracy:.2f}"
    if scored.precision < MIN_PRECISION and longest_set(to_json(rule)) > LONG:
        return f"the best rule is a long list, right on {scored.precision:.0%} of what it covers"
    return ""


def longest_set(rule: Any) -> int:
    """Return how many symbols the longest set of a rule as plain data has."""
    if isinstance(rule, dict):
        return max(map(longest_set, rule.values()), default=1)
    return len(rule) if isinstance(rule, list | tuple) else 1
