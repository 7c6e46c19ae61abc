"""Intruder: which passage does not belong to the others.

It needs no description, and so says what the feature is worth, whoever describes it.

Several contexts of the feature stand beside one without it, marked at random as often. The answer
is read as a verdict on every passage, `this one is the intruder`, so that it has a balanced
accuracy, 0.5 by chance, as other scores have.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

import numpy as np

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.forms import Intruder
from deepseemoe.labels.asking.prompts import prompt
from deepseemoe.labels.asking.question import Asker, Question, Unanswered
from deepseemoe.labels.contexts import FeatureContexts, numbered, spread
from deepseemoe.labels.explanation import Score
from deepseemoe.labels.scorers.fuzzing import wrong_marks
from deepseemoe.labels.scorers.judging import Item, Judged, shuffled, too_few

SMALLEST = 3
"""Passages of a set: with two, either could be the intruder."""


async def score_intruder(
    asker: Asker,
    label: str,
    contexts: FeatureContexts,
    config: LabelsConfig,
    random: np.random.Generator,
) -> Score:
    """Return how well the passage without the feature is found; `label` is not looked at."""
    n_texts = max(config.per_prompt, SMALLEST)
    sets = _sets(contexts, n_texts, config.n_judged, random)
    if not sets:
        told = f"{len(contexts.active)} held-out contexts with it, {len(contexts.random)} without"
        return too_few("intruder", told)
    found = await asyncio.gather(*(_find(asker, items, config.prompts) for items in sets))
    judged = Judged([], [], Counter())
    for items, intruder in zip(sets, found, strict=True):
        if isinstance(intruder, Unanswered):
            judged.failures[intruder.status] += len(items)
        else:
            judged.items.extend(items)
            judged.said.extend(place == intruder for place in range(1, len(items) + 1))
    return judged.score("intruder")


def _sets(
    contexts: FeatureContexts, n_texts: int, n_judged: int, random: np.random.Generator
) -> list[list[Item]]:
    """Return sets of passages; each passage stands in one, so that verdicts are independent."""
    active, others = spread(contexts.active, n_judged), contexts.random
    n_sets = min(len(active) // (n_texts - 1), len(others))
    active = [active[n] for n in random.permutation(len(active))]
    sets = []
    for number in range(n_sets):
        own = active[number * (n_texts - 1) : (number + 1) * (n_texts - 1)]
        items = [Item(one.marked(), False, one.doc_id) for one in own]
        n_marks = round(sum(sum(one.is_marked) for one in own) / len(own))
        marks = wrong_marks(others[number], random, n_marks=n_marks)
        items.append(Item(others[number].marked(marks or None), True, others[number].doc_id))
        sets.append(shuffled(items, random))
    return sets


async def _find(asker: Asker, items: Sequence[Item], folder: str | None) -> int | Unanswered:
    """Return the number of the passage that is said not to belong, from 1."""
    text = prompt(
        "intruder", folder, n_texts=len(items), texts=numbered([item.text for item in items])
    )
    try:
        form = await asker.ask(Question(text, Intruder, {"n_texts": len(items)}, "intruder"))
    except Unanswered as error:
        return error
    return form.intruder
