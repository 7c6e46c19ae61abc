"""Fit rules to the routing of each expert, and score what says of held-out tokens who gets them.

Axes: T tokens, E experts of a layer.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from deepseemoe.labels.execution import Half
from deepseemoe.labels.expert_predictors import by_features, by_rules, by_unigram
from deepseemoe.labels.expert_scores import ExpertScore, score_expert
from deepseemoe.labels.expert_tables import Found
from deepseemoe.labels.expert_text import RoutedText
from deepseemoe.labels.fit.best import Search
from deepseemoe.labels.reading import BoolArray
from deepseemoe.labels.rules import Rule


class Judged(NamedTuple):
    """One expert: what the tables say, its best rule, and how the predictors of its routing do."""

    found: Found
    rule: Rule | None
    n_explaining: int
    """Tokens of the explaining documents that it was sent"""
    scores: Mapping[str, ExpertScore]


def judge_experts(found: Sequence[Found], text: RoutedText) -> Iterator[Judged]:
    """Yield each expert with its best rule and its scores, layer by layer."""
    explaining, scoring = text.halves()
    _, documents_T = np.unique(scoring.reading.doc_ids, return_inverse=True)
    is_valid_T = scoring.reading.is_valid
    for layer in text.layers:
        mine = [one for one in found if one.layer == layer]
        n_experts = check_experts(text, layer, mine)
        half = Half(explaining.reading, explaining.routed(layer, n_experts))
        rules = Search(*half).rules()
        calls = {one.expert: one.called_by for one in mine}
        said = {
            "rule": by_rules(rules, scoring.reading),
            "features": by_features(scoring, calls, n_experts),
            "unigram": by_unigram(half.reading, half.firing, scoring.reading),
            "always": np.ones((len(is_valid_T), n_experts), bool),
        }
        truth_TE = scoring.chosen(layer, n_experts)[is_valid_T]
        scores = {
            scorer: score_layer(said_TE[is_valid_T], truth_TE, documents_T[is_valid_T])
            for scorer, said_TE in said.items()
        }
        for one in mine:
            yield Judged(
                one,
                rules[one.expert],
                int(half.firing.n_positive[one.expert]),
                {scorer: of_layer[one.expert] for scorer, of_layer in scores.items()},
            )


def score_layer(
    said_TE: BoolArray, truth_TE: BoolArray, documents_T: np.ndarray
) -> list[ExpertScore]:
    """Return the score of each expert's description; the null is those of the layer's others."""
    n_others = said_TE.shape[1] - 1
    n_said_T = said_TE.sum(axis=1)
    return [
        score_expert(
            said_TE[:, expert],
            truth_TE[:, expert],
            documents_T,
            (n_said_T - said_TE[:, expert]) / n_others if n_others else None,
        )
        for expert in range(said_TE.shape[1])
    ]


def check_experts(text: RoutedText, layer: int, found: Sequence[Found]) -> int:
    """Return how many experts a layer has; raise ValueError where a store names another."""
    n_experts = max(one.expert for one in found) + 1
    highest = int(text.of_layer(layer)[0].max(initial=0))
    if highest >= n_experts:
        raise ValueError(
            f"layer {layer}: the stores name expert {highest}, but the routing tables have "
            f"{n_experts}; tabulate the routing of these stores (tabulate_routing)"
        )
    return n_experts
