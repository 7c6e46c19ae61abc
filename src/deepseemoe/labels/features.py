"""Describe features: choose which, let a labeller describe and score them, write both tables."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseemoe.config import LabelsConfig
from deepseemoe.corpus.documents import domains_of
from deepseemoe.features.text import FeatureText
from deepseemoe.features.tokens import token_texts
from deepseemoe.labels.explanation import Labelled, Labeller, Score
from deepseemoe.labels.llm import ContextTable, LlmLabeller
from deepseemoe.labels.offline import OfflineLabeller
from deepseemoe.labels.reading import Reading, Vocabulary
from deepseemoe.labels.schemas import FEATURES, SCORES
from deepseemoe.runtime.seeds import generator
from deepseemoe.runtime.tables import digest, read_table, write_table

logger = logging.getLogger(__name__)


def label_features(
    config: LabelsConfig,
    *,
    shards: Sequence[Path],
    density: Path,
    examples: Path,
    documents: Path,
    tokenizer: Path,
    features: Path,
    scores: Path,
    seed: int,
    cache: Path | None = None,
) -> None:
    """Write a description of each frequent feature to `features`, its score to `scores`.

    `cache` is the folder that keeps a language model's answers; it is no output, so that answers
    survive a failure. By default it stands beside `features`. Raises ValueError where the key of
    the server is missing, or where it answers nothing.
    """
    counts = choose_features(density, config)
    if config.labeller == "openai":
        contexts = ContextTable(examples, list(counts))
        cache = cache or features.with_name("answers")
        labeller: Labeller = LlmLabeller(config, contexts=contexts, cache=cache, seed=seed)
    else:
        text = FeatureText.read(shards)
        reading = read_text(text, documents=documents, tokenizer=tokenizer)
        labeller = OfflineLabeller(reading, text.matrix, random=generator(seed, "labels"))
    labelled = labeller.label(list(counts))
    manifest = {
        "labeller": labeller.name,
        "config": digest(config.model_dump(mode="json")),
        "seed": seed,
        "mean_balanced_accuracy": mean_score([one.score for one in labelled]),
        "null_balanced_accuracy": mean_score([one.null for one in labelled if one.null]),
    }
    logger.info(
        "mean balanced accuracy %s; of the same descriptions on other features %s",
        *(manifest["mean_balanced_accuracy"], manifest["null_balanced_accuracy"]),
    )
    write_table(features, FEATURES, _feature_rows(labelled, counts, labeller.name), manifest)
    write_table(scores, SCORES, _score_rows(labelled), manifest)


def choose_features(density: Path, config: LabelsConfig) -> dict[int, int]:
    """Return the features to describe, in order, and how often each fires."""
    table = read_table(density, ["feature", "n_active"])
    feature, n_active = table["feature"].to_numpy(), table["n_active"].to_numpy()
    by_count = np.lexsort((feature, -n_active))
    frequent = by_count[n_active[by_count] >= config.min_activations][: config.max_features]
    chosen = np.sort(frequent)
    return dict(zip(feature[chosen].tolist(), n_active[chosen].tolist(), strict=True))


def read_text(text: FeatureText, *, documents: Path, tokenizer: Path) -> Reading:
    """Return what rules can see of a text."""
    names, domain_of = domains_of(documents)
    return Reading(
        vocabulary=Vocabulary(token_texts(tokenizer)),
        domain_names=names,
        token_ids=text.token_ids,
        doc_ids=text.doc_ids,
        positions=text.positions,
        is_valid=text.is_valid,
        domains=np.asarray(domain_of)[text.doc_ids],
    )


def mean_score(scores: Sequence[Score]) -> float | None:
    """Return the mean balanced accuracy of the scores that have one; None where none has."""
    found = [one.balanced_accuracy for one in scores if one.balanced_accuracy is not None]
    return float(np.mean(found)) if found else None


def _feature_rows(
    labelled: Sequence[Labelled], counts: dict[int, int], labeller: str
) -> list[dict[str, Any]]:
    return [
        {
            "feature": one.feature,
            **one.explanation._asdict(),
            "n_active": counts[one.feature],
            "labeller": labeller,
        }
        for one in labelled
    ]


def _score_rows(labelled: Sequence[Labelled]) -> list[dict[str, Any]]:
    return [{"feature": one.feature, **one.score._asdict()} for one in labelled]
