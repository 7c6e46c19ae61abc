"""Let a language model describe features from contexts, and judge its descriptions on others.

Departures from Delphi (arXiv 2410.13928): explaining and judged contexts come from different
documents (Delphi draws both from one pool, and 20 to 40 % of the texts it judges were also shown),
what cannot be read is counted instead of dropped, and every score has a null.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.answers import Answers
from deepseemoe.labels.asking.bill import Bill, Prices
from deepseemoe.labels.asking.budget import Budget
from deepseemoe.labels.asking.client import Client
from deepseemoe.labels.asking.forms import Description
from deepseemoe.labels.asking.ordered import in_order
from deepseemoe.labels.asking.progress import CostProgress
from deepseemoe.labels.asking.prompts import prompt
from deepseemoe.labels.asking.question import Asker, Question, Unanswered, Usage
from deepseemoe.labels.asking.secrets import api_key
from deepseemoe.labels.contexts import ContextTable, FeatureContexts, numbered, spread
from deepseemoe.labels.cost import EXPLANATION, Contexts, explain_usage, score_usage, verdict_tokens
from deepseemoe.labels.explanation import Explanation, Labelled, Score
from deepseemoe.labels.null import partners
from deepseemoe.labels.scorers import SCORERS
from deepseemoe.labels.scorers.names import WITHOUT_LABEL
from deepseemoe.labels.value import Valued
from deepseemoe.runtime.seeds import generator

logger = logging.getLogger(__name__)

NULL_SHARE = 0.2
"""Of a budget, at most, what the null may take; its features are fewer where that is too little."""

SAME_LABEL, SAME_SHARE = 5, 0.02
"""A description that so many features got, and such a share of all, is called repeated."""

LEFT_OUT = Explanation(
    "not described",
    "failed",
    "",
    "budget",
    "the budget ends before it; raise labels.budget_usd or budget_tokens, answers so far are kept",
)


class LlmLabeller:
    """Describe and judge features by the model that the configuration names."""

    def __init__(
        self,
        config: LabelsConfig,
        *,
        contexts: ContextTable,
        answers: Path,
        name: str,
        budget: Budget,
        seed: int,
    ):
        """Raise ValueError where the key is missing, before anything is asked.

        `answers` is the folder that keeps every answer; those of this labeller go to its file
        `name`.
        """
        api_key(config)
        self.name = f"{config.model} (language model)"
        self.bill = Bill(Prices.of(config))
        self._config, self._contexts, self._seed = config, contexts, seed
        self._answers, self._file, self._budget = answers, name, budget

    def label(self, valued: Valued) -> list[Labelled]:
        """Return each feature with the model's description and its scores, in the given order.

        Raises ValueError where the server cannot be used at all.
        """
        with Answers(self._answers, self._file) as answers:
            labelled = asyncio.run(self._label_all(valued, answers))
        told = Counter(one.explanation.status for one in labelled)
        logger.info("described: %s", ", ".join(f"{n} {status}" for status, n in told.items()))
        return with_repeated(labelled)

    async def _label_all(self, valued: Valued, answers: Answers) -> list[Labelled]:
        features = valued.features.tolist()
        judges_null = bool(self._config.null_features)
        async with Client(self._config, answers, bill=self.bill, budget=self._budget) as client:
            progress = CostProgress("describe features", len(features), bill=self.bill)

            async def describe(place: int, asker: Asker) -> Labelled:
                described = await self._describe(features[place], asker)
                progress.advance()
                return described

            found = await in_order(
                len(features),
                describe,
                client=client,
                estimate=self._describing().plus(self._judging(self._config.scorers)),
                budget=self._budget.part(1 - NULL_SHARE) if judges_null else self._budget,
                width=2 * self._config.concurrency,
                spent=self.bill.usage,
            )
            labelled = [
                one or Labelled(feature, LEFT_OUT)
                for feature, one in zip(features, found, strict=True)
            ]
            return await self._with_nulls(labelled, valued, client)

    async def _describe(self, feature: int, asker: Asker) -> Labelled:
        """Return one feature with its description and scores."""
        contexts = self._contexts.of(feature)
        explanation = await explain(asker, contexts, self._config)
        if explanation.status != "labelled":
            return Labelled(feature, explanation)
        scores = await self._judge(feature, explanation, contexts, self._config.scorers, asker)
        return Labelled(feature, explanation, scores, tuple(None for _ in scores))

    async def _judge(
        self,
        feature: int,
        explanation: Explanation,
        contexts: FeatureContexts,
        scorers: Sequence[str],
        asker: Asker,
    ) -> tuple[Score, ...]:
        """Return a score of each scorer; draws depend on feature and scorer alone."""
        jobs = (
            SCORERS[scorer](
                asker,
                explanation.label,
                contexts,
                self._config,
                generator(self._seed, scorer, feature),
            )
            for scorer in scorers
        )
        return tuple(await asyncio.gather(*jobs))

    async def _with_nulls(
        self, labelled: list[Labelled], valued: Valued, client: Client
    ) -> list[Labelled]:
        """Return the features, some with what the description of another scores on them."""
        described = [n for n, one in enumerate(labelled) if one.explanation.status == "labelled"]
        random = generator(self._seed, "null")
        pairs = partners(valued.n_active[described], self._config.null_features, random)
        scorers = [scorer for scorer in self._config.scorers if scorer not in WITHOUT_LABEL]

        progress = CostProgress("swap descriptions", len(pairs), bill=self.bill)

        async def swap(place: int, asker: Asker) -> tuple[Score, ...]:
            own, other = (described[n] for n in pairs[place])
            feature, explanation = labelled[own].feature, labelled[other].explanation
            contexts = self._contexts.of(feature)
            scores = await self._judge(feature, explanation, contexts, scorers, asker)
            progress.advance()
            return scores

        found = await in_order(
            len(pairs),
            swap,
            client=client,
            estimate=self._judging(scorers),
            budget=self._budget.part(NULL_SHARE),
            width=2 * self._config.concurrency,
        )
        for (own, _), scores in zip(pairs, found, strict=True):
            one, by_scorer = labelled[described[own]], {s.scorer: s for s in scores or ()}
            nulls = tuple(by_scorer.get(score.scorer) for score in one.scores)
            labelled[described[own]] = one._replace(nulls=nulls)
        return labelled

    def _describing(self) -> Usage:
        return explain_usage(
            self._config,
            Contexts.unbounded(),
            context_tokens=self._contexts.most_tokens,
            answer_tokens=EXPLANATION,
        )

    def _judging(self, scorers: Sequence[str]) -> Usage:
        return score_usage(
            self._config,
            Contexts.unbounded(),
            context_tokens=self._contexts.most_tokens,
            answer_tokens=verdict_tokens(self._config),
            scorers=tuple(scorers),
        )


async def explain(asker: Asker, contexts: FeatureContexts, config: LabelsConfig) -> Explanation:
    """Return the model's description of a feature; its status says why there is none."""
    n_each = len(contexts.shown), len(contexts.active)
    if min(n_each) < config.min_contexts:
        reason = f"contexts: {n_each[0]} to describe from, {n_each[1]} to judge by; "
        reason += f"labels.min_contexts asks for {config.min_contexts} of each"
        return Explanation("not described", "failed", "", "few_contexts", reason)
    try:
        form = await asker.ask(Question(_explaining(contexts, config), Description, {}, "explain"))
    except Unanswered as error:
        return Explanation("not described", "failed", "", error.status, error.reason)
    return Explanation(form.label, "model", form.reasons)


def _explaining(contexts: FeatureContexts, config: LabelsConfig) -> str:
    """Return the prompt: what the feature fires on, the strongest first, and near misses."""
    shown = spread(contexts.shown, config.n_examples)
    shown.sort(key=lambda context: -max(context.activations))
    lookalikes = spread(contexts.lookalikes, len(shown) // 2)
    near_misses = ""
    if lookalikes:
        texts = numbered([context.text for context in lookalikes])
        near_misses = prompt("near_misses", config.prompts, texts=texts)
    texts = numbered([context.marked() for context in shown])
    return prompt(
        "explain", config.prompts, n_texts=len(shown), texts=texts, near_misses=near_misses
    )


def with_repeated(labelled: Sequence[Labelled]) -> list[Labelled]:
    """Return the features; one description given to many of them is none for any.

    Their scores stay: they say whether the description is wrong for them or their contexts are
    alike.
    """
    counts = Counter(
        one.explanation.label.casefold() for one in labelled if one.explanation.status == "labelled"
    )
    least = max(SAME_LABEL, SAME_SHARE * counts.total())
    found = []
    for one in labelled:
        n_same = counts[one.explanation.label.casefold()]
        if one.explanation.status == "labelled" and n_same >= least:
            reason = f"{n_same} features got this description"
            explanation = one.explanation._replace(status="repeated", reason=reason)
            one = one._replace(explanation=explanation)
        found.append(one)
    return found
