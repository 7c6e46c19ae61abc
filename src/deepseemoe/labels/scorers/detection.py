"""Detection: which passages have what is described, beside random ones or beside near misses.

Against near misses a description of the right words is not enough: they hold the same words.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.forms import Detections
from deepseemoe.labels.asking.prompts import prompt
from deepseemoe.labels.asking.question import Asker, Question
from deepseemoe.labels.contexts import Context, FeatureContexts, numbered, spread
from deepseemoe.labels.explanation import Score
from deepseemoe.labels.scorers.judging import Item, judge, shuffled, too_few


async def score_detection(
    asker: Asker,
    label: str,
    contexts: FeatureContexts,
    config: LabelsConfig,
    random: np.random.Generator,
) -> Score:
    """Return how well a description tells contexts of its feature from random ones."""
    return await _detect(
        "detection", asker, label, contexts.active, contexts.random, config, random
    )


async def score_hard(
    asker: Asker,
    label: str,
    contexts: FeatureContexts,
    config: LabelsConfig,
    random: np.random.Generator,
) -> Score:
    """Return how well a description tells contexts of its feature from near misses."""
    return await _detect("hard", asker, label, contexts.active, contexts.near, config, random)


async def _detect(
    scorer: str,
    asker: Asker,
    label: str,
    active: Sequence[Context],
    others: Sequence[Context],
    config: LabelsConfig,
    random: np.random.Generator,
) -> Score:
    if not active or not others:
        return too_few(scorer, f"{len(active)} held-out contexts with it, {len(others)} without")
    items = [Item(one.text, True, one.doc_id) for one in spread(active, config.n_judged)]
    items += [Item(one.text, False, one.doc_id) for one in spread(others, config.n_judged)]
    judged = await judge(
        asker,
        shuffled(items, random),
        partial(_question, scorer, label, config.prompts),
        lambda form: form.present,
        per_prompt=config.per_prompt,
    )
    return judged.score(scorer)


def _question(scorer: str, label: str, folder: str | None, items: Sequence[Item]) -> Question:
    text = prompt(
        "detect",
        folder,
        label=label,
        n_texts=len(items),
        texts=numbered([item.text for item in items]),
        zeros=", ".join("0" for _ in items),
    )
    return Question(text, Detections, {"n_texts": len(items)}, scorer)
