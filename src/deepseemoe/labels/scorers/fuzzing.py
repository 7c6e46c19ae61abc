"""Fuzzing: whether the marked tokens are the ones that the description is about.

Half of the contexts are marked where the feature is strongly on, the other half as often at random
places where it is off. All have the feature, so that topic alone cannot tell them apart.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.forms import Marks
from deepseemoe.labels.asking.prompts import prompt
from deepseemoe.labels.asking.question import Asker, Question
from deepseemoe.labels.contexts import Context, FeatureContexts, numbered, spread
from deepseemoe.labels.explanation import Score
from deepseemoe.labels.scorers.judging import Item, judge, shuffled, too_few


async def score_fuzzing(
    asker: Asker,
    label: str,
    contexts: FeatureContexts,
    config: LabelsConfig,
    random: np.random.Generator,
) -> Score:
    """Return how well a description tells rightly from wrongly marked contexts."""
    chosen = spread(contexts.active, 2 * config.n_judged)
    drawn = [chosen[n] for n in random.permutation(len(chosen))]
    items = [item for n, one in enumerate(drawn) for item in _item(one, n % 2 == 0, random)]
    if len({item.truth for item in items}) < 2:
        return too_few("fuzzing", f"{len(items)} held-out contexts that can be marked")
    judged = await judge(
        asker,
        shuffled(items, random),
        partial(_question, label, config.prompts),
        lambda form: form.right,
        per_prompt=config.per_prompt,
    )
    return judged.score("fuzzing")


def _item(context: Context, is_right: bool, random: np.random.Generator) -> list[Item]:
    """Return a context with right or wrong marks; none where there is no wrong place."""
    if is_right:
        return [Item(context.marked(), True, context.doc_id)]
    marks = wrong_marks(context, random, n_marks=sum(context.is_marked))
    return [Item(context.marked(marks), False, context.doc_id)] if marks else []


def wrong_marks(context: Context, random: np.random.Generator, *, n_marks: int) -> list[bool]:
    """Return marks on `n_marks` tokens on which the feature is off, or as many as there are.

    Blank tokens are left out, since their marks show nothing. Empty where every token is active.
    """
    free = [
        place
        for place, (token, activation) in enumerate(
            zip(context.tokens, context.activations, strict=True)
        )
        if not activation > 0 and token.strip()
    ]
    if not free:
        return []
    size = min(max(n_marks, 1), len(free))
    chosen = set(random.choice(free, size=size, replace=False).tolist())
    return [place in chosen for place in range(len(context.tokens))]


def _question(label: str, folder: str | None, items: Sequence[Item]) -> Question:
    text = prompt(
        "fuzz",
        folder,
        label=label,
        n_texts=len(items),
        texts=numbered([item.text for item in items]),
        zeros=", ".join("0" for _ in items),
    )
    return Question(text, Marks, {"n_texts": len(items)}, "fuzzing")
