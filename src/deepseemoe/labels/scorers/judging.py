"""What scorers share: items with a known truth, verdicts on them, and what had none.

An item that no verdict can be had for is counted by its failure and is in no rate: a server that
fails half of the time makes intervals wider, never scores better or worse.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.question import Asker, Question, Unanswered
from deepseemoe.labels.contexts import FeatureContexts
from deepseemoe.labels.explanation import Score
from deepseemoe.labels.scoring import Verdicts, score


class Judge(Protocol):
    """Scores one description on the contexts of one feature."""

    async def __call__(
        self,
        asker: Asker,
        label: str,
        contexts: FeatureContexts,
        config: LabelsConfig,
        random: np.random.Generator,
    ) -> Score:
        """Return the score; what cannot be judged is said in its status, never raised."""
        ...


class Item(NamedTuple):
    """A text to be judged, and what would be right."""

    text: str
    truth: bool
    doc_id: int


class Judged(NamedTuple):
    """Items that were judged, the verdict on each, and how many have none, by reason."""

    items: list[Item]
    said: list[bool]
    failures: Counter[str]

    def score(self, scorer: str) -> Score:
        """Return the balanced accuracy of the verdicts."""
        n_failed = sum(self.failures.values())
        found = score(scorer, self._verdicts(), n_failed=n_failed)
        told = ", ".join(f"{status} {n}" for status, n in sorted(self.failures.items()))
        if found.balanced_accuracy is None:
            return found._replace(status="failed" if n_failed else "few_contexts", reason=told)
        return found._replace(reason=told)

    def _verdicts(self) -> Verdicts:
        """Return the verdicts by document."""
        documents = np.array([item.doc_id for item in self.items], np.int64)
        place = np.unique(documents, return_inverse=True)[1]
        truth = np.array([item.truth for item in self.items], bool)
        said = np.array(self.said, bool)

        def count(mask: Any) -> Any:
            return np.bincount(place[mask], minlength=int(place.max(initial=-1)) + 1)

        return Verdicts(count(truth & said), count(truth), count(~truth & ~said), count(~truth))


async def judge(
    asker: Asker,
    items: Sequence[Item],
    question: Callable[[Sequence[Item]], Question],
    verdicts: Callable[[Any], Sequence[bool]],
    *,
    per_prompt: int,
) -> Judged:
    """Return a verdict on each item, `per_prompt` of them asked about together."""
    batches = [items[n : n + per_prompt] for n in range(0, len(items), per_prompt)]
    answers = await asyncio.gather(*(_ask(asker, question(batch)) for batch in batches))
    judged = Judged([], [], Counter())
    for batch, answer in zip(batches, answers, strict=True):
        if isinstance(answer, Unanswered):
            judged.failures[answer.status] += len(batch)
        else:
            judged.items.extend(batch)
            judged.said.extend(verdicts(answer))
    return judged


async def _ask(asker: Asker, question: Question) -> Any:
    """Return the answer, or why there is none."""
    try:
        return await asker.ask(question)
    except Unanswered as error:
        return error


def too_few(scorer: str, reason: str) -> Score:
    """Return the score of a feature that has not enough contexts for a scorer."""
    return Score(scorer, 0, 0, None, None, None, status="few_contexts", reason=reason)


def shuffled(items: Sequence[Item], random: np.random.Generator) -> list[Item]:
    """Return items in random order, so that their place tells nothing."""
    return [items[n] for n in random.permutation(len(items))]
