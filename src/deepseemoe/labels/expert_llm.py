"""Let a language model describe experts, and predict held-out routing from its descriptions.

The task of RouterInterp (arXiv 2610.11775): of 15 tokens that an expert was sent and 85 others, say
from 0 to 4 how likely each is sent to it; 2 and more is yes. Departures: tokens to describe from
and to judge come from different documents, several passages share a prompt, what cannot be read is
counted, and another expert's description judges the same tokens, which is the null.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.answers import Answers
from deepseemoe.labels.asking.bill import Bill, Prices
from deepseemoe.labels.asking.budget import Budget
from deepseemoe.labels.asking.client import Client
from deepseemoe.labels.asking.forms import Description, Likelihoods
from deepseemoe.labels.asking.ordered import in_order
from deepseemoe.labels.asking.progress import CostProgress
from deepseemoe.labels.asking.prompts import prompt
from deepseemoe.labels.asking.question import Asker, Question, Unanswered
from deepseemoe.labels.asking.secrets import api_key
from deepseemoe.labels.contexts import numbered
from deepseemoe.labels.cost import expert_usage, verdict_tokens
from deepseemoe.labels.expert_contexts import AFTER, BEFORE, ExpertContexts
from deepseemoe.labels.expert_scores import ExpertScore, Interval, score_expert
from deepseemoe.labels.explanation import Explanation
from deepseemoe.labels.llm import LEFT_OUT, NULL_SHARE
from deepseemoe.labels.null import Null, null_from
from deepseemoe.labels.scorers.judging import Item, Judged, judge
from deepseemoe.runtime.seeds import generator

logger = logging.getLogger(__name__)

YES = 2
"""The least likelihood that counts as yes."""

TOKEN_CHARACTERS = 4
"""Tokens of the language model for one of ours, at most, in the estimate of a passage."""

Contexts = Callable[[int], ExpertContexts]
"""Makes the passages of an expert, by its place in the list, when they are asked for."""


class Asked(NamedTuple):
    """One expert that is to be described."""

    layer: int
    expert: int
    facts: str


class Answered(NamedTuple):
    """What became of it."""

    explanation: Explanation
    score: ExpertScore | None = None
    n_failed: int = 0
    status: str = "scored"
    reason: str = ""


class ExpertLabeller:
    """Describe and judge experts by the model that the configuration names."""

    def __init__(
        self, config: LabelsConfig, *, answers: Path, name: str, budget: Budget, seed: int
    ):
        """Raise ValueError where the key is missing, before anything is asked."""
        api_key(config)
        self.name = f"{config.model} (language model)"
        self.bill = Bill(Prices.of(config))
        self._config, self._seed, self._budget = config, seed, budget
        self._answers, self._file = answers, name

    def label(self, experts: Sequence[Asked], contexts: Contexts) -> list[Answered]:
        """Return what is said of each expert, in the given order.

        Raises ValueError where the server cannot be used at all.
        """
        with Answers(self._answers, self._file) as answers:
            return asyncio.run(self._label(experts, contexts, answers))

    async def _label(
        self, experts: Sequence[Asked], contexts: Contexts, answers: Answers
    ) -> list[Answered]:
        async with Client(self._config, answers, bill=self.bill, budget=self._budget) as client:
            return await describe_experts(
                experts,
                contexts,
                config=self._config,
                client=client,
                budget=self._budget,
                seed=self._seed,
            )


async def describe_experts(
    experts: Sequence[Asked],
    contexts: Contexts,
    *,
    config: LabelsConfig,
    client: Client,
    budget: Budget,
    seed: int,
) -> list[Answered]:
    """Return each expert with its description and score; `client` hands out askers."""
    estimate = expert_usage(
        config,
        context_tokens=TOKEN_CHARACTERS * (BEFORE + 1 + AFTER),
        answer_tokens=verdict_tokens(config),
    )
    progress = CostProgress("describe experts", len(experts), bill=client.bill, unit="experts")

    async def describe(place: int, asker: Asker) -> tuple[Explanation, Judged | None]:
        passages = contexts(place)
        explanation = await explain_expert(asker, experts[place].facts, passages, config)
        judged = None
        if explanation.status == "labelled":
            judged = await judge_routing(asker, explanation.label, passages.items, config)
        progress.advance()
        return explanation, judged

    width = 2 * config.concurrency
    found = await in_order(
        len(experts),
        describe,
        client=client,
        estimate=estimate,
        budget=budget.part(1 - NULL_SHARE) if config.null_features else budget,
        width=width,
        spent=client.bill.usage,
    )
    described = [one or (LEFT_OUT, None) for one in found]
    is_labelled = [judged is not None for _, judged in described]
    pairs = partners(experts, is_labelled, config.null_features, generator(seed, "expert null"))

    async def swap(place: int, asker: Asker) -> Judged:
        own, other = pairs[place]
        label = described[other][0].label
        return await judge_routing(asker, label, contexts(own).items, config)

    swapped = await in_order(
        len(pairs),
        swap,
        client=client,
        estimate=estimate,
        budget=budget.part(NULL_SHARE),
        width=width,
    )
    null = null_of([one for one in swapped if one is not None])
    return [_answered(explanation, judged, null) for explanation, judged in described]


async def explain_expert(
    asker: Asker, facts: str, contexts: ExpertContexts, config: LabelsConfig
) -> Explanation:
    """Return the model's description of an expert; its status says why there is none."""
    n_others = sum(not item.truth for item in contexts.items)
    if min(contexts.n_least, n_others) < config.min_contexts:
        reason = (
            f"{len(contexts.shown)} tokens to describe from, "
            f"{len(contexts.items) - n_others} and {n_others} others to judge by; "
            f"labels.min_contexts asks for {config.min_contexts} of each"
        )
        return Explanation("not described", "failed", "", "few_contexts", reason)
    text = prompt(
        "explain_expert",
        config.prompts,
        facts=facts,
        texts=numbered([context.marked() for context in contexts.shown]),
        near_misses=numbered([context.marked() for context in contexts.near]),
    )
    try:
        form = await asker.ask(Question(text, Description, {}, "explain_expert"))
    except Unanswered as error:
        return Explanation("not described", "failed", "", error.status, error.reason)
    return Explanation(form.label, "model", form.reasons)


async def judge_routing(
    asker: Asker, label: str, items: Sequence[Item], config: LabelsConfig
) -> Judged:
    """Return which tokens a description says are sent to the expert."""
    return await judge(
        asker,
        items,
        partial(_question, label, config.prompts),
        lambda form: [likely >= YES for likely in form.likely],
        per_prompt=config.per_prompt,
    )


def _question(label: str, folder: str | None, items: Sequence[Item]) -> Question:
    text = prompt(
        "route",
        folder,
        label=label,
        n_texts=len(items),
        texts=numbered([item.text for item in items]),
        zeros=", ".join("0" for _ in items),
    )
    return Question(text, Likelihoods, {"n_texts": len(items)}, "routing")


def partners(
    experts: Sequence[Asked], is_labelled: Sequence[bool], most: int, random: np.random.Generator
) -> list[tuple[int, int]]:
    """Return at most `most` pairs of places: an expert, and another of its layer.

    Within a layer each described expert lends its description to the next of a random order.
    """
    of_layer: dict[int, list[int]] = {}
    for place, (one, is_one) in enumerate(zip(experts, is_labelled, strict=True)):
        if is_one:
            of_layer.setdefault(one.layer, []).append(place)
    pairs = []
    for places in of_layer.values():
        order = random.permutation(places).tolist()
        if len(order) > 1:
            pairs += list(zip(order, [*order[1:], order[0]], strict=True))
    chosen = random.permutation(len(pairs))[:most]
    return [pairs[n] for n in sorted(chosen.tolist())]


def null_of(swapped: Sequence[Judged]) -> Null | None:
    """Return what descriptions get on the tokens of other experts; None where none was judged.

    The mean over all experts that lent theirs: two of them may well have the same description.
    """
    scores = [score_expert(*_columns(one)).balanced_accuracy.value for one in swapped]
    values = np.array([value for value in scores if value is not None])
    return null_from(values) if len(values) else None


def _answered(explanation: Explanation, judged: Judged | None, null: Null | None) -> Answered:
    if judged is None:
        return Answered(explanation, status=explanation.status, reason=explanation.reason)
    score = score_expert(*_columns(judged))
    if null is not None:
        score = score._replace(null=null.mean, lift=_lift(score.balanced_accuracy, null))
    n_failed = sum(judged.failures.values())
    told = ", ".join(f"{status} {n}" for status, n in sorted(judged.failures.items()))
    status = "scored"
    if score.f1.value is None:
        status = "failed" if n_failed else "few_contexts"
    return Answered(explanation, score, n_failed, status, told)


def _lift(own: Interval, null: Null) -> Interval:
    """Return a balanced accuracy less the null; both intervals are joined by their squares."""
    if own.value is None or own.lo is None or own.hi is None:
        return Interval()
    value = own.value - null.mean
    below, above = (np.hypot(end - own.value, null.half) for end in (own.lo, own.hi))
    return Interval(value, value - float(below), value + float(above))


def _columns(judged: Judged) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return verdicts, truth and the documents' numbers of what was judged."""
    documents = np.array([item.doc_id for item in judged.items], np.int64)
    truth = np.array([item.truth for item in judged.items], bool)
    return np.array(judged.said, bool), truth, np.unique(documents, return_inverse=True)[1]
