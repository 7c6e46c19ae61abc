"""Simulation: predict the feature's activation on every token from the description alone.

The score of Bills et al. 2023: a model writes a digit for each token, the expected digit under its
probabilities is the prediction, and the correlation with the true activations over all tokens is
the score. The balanced accuracy asks less: is the prediction in the upper half where the feature
fires? It needs a server that gives log-probabilities.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.prompts import prompt
from deepseemoe.labels.asking.question import Asker, Unanswered
from deepseemoe.labels.contexts import Context, FeatureContexts, spread
from deepseemoe.labels.explanation import Score
from deepseemoe.labels.scorers.judging import Item, Judged, too_few

HIGHEST = 9
N_CONTEXTS = 10
"""Contexts with the feature, and half as many without, that are simulated."""


async def score_simulation(
    asker: Asker,
    label: str,
    contexts: FeatureContexts,
    config: LabelsConfig,
    random: np.random.Generator,
) -> Score:
    """Return how well a description predicts activations; `random` is not needed."""
    chosen = spread(contexts.active, N_CONTEXTS) + spread(contexts.random, N_CONTEXTS // 2)
    if not contexts.active:
        return too_few("simulation", "no held-out contexts with it")
    found = await asyncio.gather(*(_simulate(asker, label, one, config) for one in chosen))
    judged = Judged([], [], Counter())
    true, predicted = [], []
    for context, expected in zip(chosen, found, strict=True):
        if isinstance(expected, Unanswered):
            judged.failures[expected.status] += len(context.tokens)
            continue
        true += list(context.activations)
        predicted += expected
        judged.said.extend(value > HIGHEST / 2 for value in expected)
        judged.items.extend(Item("", value > 0, context.doc_id) for value in context.activations)
    return judged.score("simulation")._replace(correlation=_correlation(true, predicted))


async def _simulate(
    asker: Asker, label: str, context: Context, config: LabelsConfig
) -> list[float] | Unanswered:
    """Return the expected digit of each token of a context."""
    tokens = "\n".join(token.replace("\n", "⏎").replace("\t", "⇥") for token in context.tokens)
    text = prompt(
        "simulate", config.prompts, label=label, tokens=tokens, n_tokens=len(context.tokens)
    )
    try:
        chances = await asker.chances(text, purpose="simulation")
    except Unanswered as error:
        return error
    expected = [value for one in chances if (value := expected_digit(one)) is not None]
    if len(expected) != len(context.tokens):
        told = f"{len(expected)} digits for {len(context.tokens)} tokens"
        return Unanswered("unreadable", told)
    return expected


def expected_digit(chances: Mapping[str, float]) -> float | None:
    """Return the mean digit under the log-probabilities of a token; None where it is no digit.

    The likeliest alternative must be a digit; alternatives that are none are left out.
    """
    if not chances or not all(map(math.isfinite, chances.values())):
        return None
    if not _is_digit(max(chances, key=lambda text: chances[text])):
        return None
    most = max(chances.values())
    digits = {text: math.exp(value - most) for text, value in chances.items() if _is_digit(text)}
    return sum(int(text) * share for text, share in digits.items()) / sum(digits.values())


def _is_digit(text: str) -> bool:
    return len(text.strip()) == 1 and text.strip() in "0123456789"


def _correlation(true: Sequence[float], predicted: Sequence[float]) -> float | None:
    """Return Pearson's correlation; None where either does not vary."""
    if len(true) < 2 or np.std(true) == 0 or np.std(predicted) == 0:
        return None
    return float(np.corrcoef(true, predicted)[0, 1])
