"""Let a language model describe features from contexts, and judge its descriptions on others.

The detection score of Paulo et al. 2024 (arXiv 2410.13928): shown a description and five texts,
which of these have the feature? Departures: explaining and judged contexts come from different
documents (Delphi draws both from one pool, and 20 to 40 % of the texts it judges were also shown),
and what cannot be read is counted instead of dropped.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.answers import Answers
from deepseemoe.labels.explanation import Explanation, Labelled, Score
from deepseemoe.labels.forms import Description, Detections, prompt
from deepseemoe.labels.openai_client import Client, Unanswered, api_key
from deepseemoe.labels.scoring import Verdicts, score
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.seeds import generator

logger = logging.getLogger(__name__)

SCORER = "detection"
PER_PROMPT = 5
"""Texts that are judged together, as in Delphi's code."""

HARD = "near", "neighbour"
"""Groups of contexts that lack the feature though they look like it."""

MARKED = 0.3
"""Share of the feature's highest activation from which a token is marked, as in Delphi's code."""


class Context(NamedTuple):
    """One context of a feature."""

    half: str
    group: str
    doc_id: int
    tokens: list[str]
    activations: list[float]

    @property
    def text(self) -> str:
        """The context as it stands in the document, on one line."""
        return _one_line("".join(self.tokens))

    def marked(self, least: float) -> str:
        """Return the context with runs of tokens that are active above `least` between « and »."""
        parts, was_on = [], False
        for token, activation in zip(self.tokens, self.activations, strict=True):
            is_on = activation > least
            parts += ["«" if is_on and not was_on else "»" if was_on and not is_on else "", token]
            was_on = is_on
        return _one_line("".join(parts) + ("»" if was_on else ""))


class FeatureContexts(NamedTuple):
    """The contexts of a feature that the labeller uses, by what they are for."""

    explaining: list[Context]
    judged: list[Context]
    """With and without the feature, in random order"""


class ContextTable:
    """examples.parquet, read for some features; rows become text when they are asked for."""

    def __init__(self, path: Path, features: Sequence[int]):
        chosen = pc.field("feature").isin(list(features))
        columns = ["feature", "half", "group", "doc_id", "tokens", "activations"]
        self._table = pq.read_table(path, columns=columns, filters=chosen)
        self._features = self._table["feature"].to_numpy()

    def of(
        self, feature: int, *, n_explaining: int, random: np.random.Generator
    ) -> FeatureContexts:
        """Return the contexts of one feature; both parts have different documents."""
        first, last = np.searchsorted(self._features, [feature, feature + 1])
        rows = self._table.slice(first, last - first).drop_columns("feature").to_pylist()
        contexts = [Context(**row) for row in rows]
        shown = [c for c in contexts if c.half == "explain" and _has_feature(c)]
        judged = [c for c in contexts if c.half == "score" and c.group not in HARD]
        shown.sort(key=lambda context: -max(context.activations))
        shared = {c.doc_id for c in shown} & {c.doc_id for c in judged}
        assert not shared, f"documents {shared} explain and judge at once"
        return FeatureContexts(
            shown[:n_explaining], [judged[n] for n in random.permutation(len(judged))]
        )


class LlmLabeller:
    """Describe and judge features by the model that the configuration names."""

    def __init__(self, config: LabelsConfig, *, contexts: ContextTable, cache: Path, seed: int):
        """Raise ValueError where the key is missing, before anything is asked."""
        api_key(config)
        self.name = f"{config.model} (language model)"
        self._config, self._contexts, self._cache, self._seed = config, contexts, cache, seed

    def label(self, features: Sequence[int]) -> list[Labelled]:
        """Return each feature with the model's description and its detection score.

        Raises ValueError where no feature at all got a readable description.
        """
        with Answers(self._cache) as answers:
            logger.info("%d answers are kept from before", len(answers))
            labelled = asyncio.run(self._label_all(features, answers))
        failures = [one.explanation for one in labelled if one.explanation.kind == "failed"]
        if failures and len(failures) == len(labelled):
            raise ValueError(f"{self.name} described no feature; the first: {failures[0].detail}")
        logger.info("%d of %d features got no description", len(failures), len(labelled))
        return labelled

    async def _label_all(self, features: Sequence[int], answers: Answers) -> list[Labelled]:
        progress = Progress("label_features", len(features), unit="features")
        async with Client(self._config, answers) as client:
            return await asyncio.gather(*(self._label(client, one, progress) for one in features))

    async def _label(self, client: Client, feature: int, progress: Progress) -> Labelled:
        contexts = self._contexts.of(
            feature,
            n_explaining=self._config.n_examples,
            random=generator(self._seed, "detection", feature),
        )
        explanation = await explain(client, contexts.explaining)
        judged = await detect(client, explanation, contexts.judged)
        progress.advance(1)
        return Labelled(feature, explanation, judged)


async def explain(client: Client, contexts: Sequence[Context]) -> Explanation:
    """Return the model's description of a feature from contexts with it, strongest first."""
    if not contexts:
        return Explanation("no description", "failed", "no context in the explaining documents")
    least = MARKED * max(max(context.activations) for context in contexts)
    texts = _numbered([context.marked(least) for context in contexts])
    try:
        asked = prompt("explain", n_texts=len(contexts), texts=texts, near_misses="")
        form = await client.ask(asked, Description)
    except Unanswered as error:
        return Explanation("no description", "failed", str(error))
    return Explanation(form.label, "model", form.reasons)


async def detect(client: Client, explanation: Explanation, contexts: Sequence[Context]) -> Score:
    """Return how well the model tells contexts with the feature from others by the description."""
    batches = [contexts[n : n + PER_PROMPT] for n in range(0, len(contexts), PER_PROMPT)]
    if explanation.kind == "failed":
        return score(SCORER, _verdicts([], []), n_failed=len(contexts))
    answers = await asyncio.gather(*(_judge(client, explanation, batch) for batch in batches))
    judged = [
        context for batch, said in zip(batches, answers, strict=True) if said for context in batch
    ]
    said = [verdict for answer in answers for verdict in answer]
    return score(SCORER, _verdicts(judged, said), n_failed=len(contexts) - len(judged))


async def _judge(client: Client, explanation: Explanation, batch: Sequence[Context]) -> list[bool]:
    """Return a verdict on each text; nothing where the answer cannot be read."""
    blanks = {
        "label": explanation.label,
        "n_texts": len(batch),
        "texts": _numbered([context.text for context in batch]),
        "zeros": ", ".join("0" for _ in batch),
    }
    try:
        form = await client.ask(prompt("detect", **blanks), Detections, n_texts=len(batch))
    except Unanswered as error:
        logger.warning("%d texts are not judged: %s", len(batch), error)
        return []
    return form.present


def _verdicts(contexts: Sequence[Context], said: Sequence[bool]) -> Verdicts:
    """Return verdicts by document."""
    documents = np.array([context.doc_id for context in contexts], np.int64)
    place = np.unique(documents, return_inverse=True)[1]
    truth = np.array([_has_feature(context) for context in contexts], bool)
    verdict = np.array(said, bool)

    def count(mask: Any) -> Any:
        return np.bincount(place[mask], minlength=int(place.max(initial=-1)) + 1)

    return Verdicts(count(truth & verdict), count(truth), count(~truth & ~verdict), count(~truth))


def _has_feature(context: Context) -> bool:
    return context.group not in (*HARD, "random")


def _numbered(texts: Sequence[str]) -> str:
    return "\n".join(f"{n}. {text}" for n, text in enumerate(texts, start=1))


def _one_line(text: str) -> str:
    return text.replace("\r", "").replace("\n", "⏎").replace("\t", "⇥")
