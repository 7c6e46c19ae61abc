"""Describe features: choose which, let a labeller describe and score them, write the tables."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseemoe.config import LabelsConfig
from deepseemoe.corpus.documents import domains_of
from deepseemoe.features.text import FeatureText
from deepseemoe.features.tokens import token_texts
from deepseemoe.labels.asking.bill import Bill
from deepseemoe.labels.asking.budget import Budget
from deepseemoe.labels.asking.prompts import prompt_versions
from deepseemoe.labels.contexts import ContextTable, allowed_documents
from deepseemoe.labels.explanation import Labelled
from deepseemoe.labels.llm import LlmLabeller
from deepseemoe.labels.null import Null, lift, nulls_of
from deepseemoe.labels.offline import OfflineLabeller
from deepseemoe.labels.reading import Reading, Vocabulary
from deepseemoe.labels.schemas import FEATURES, SCORES
from deepseemoe.labels.value import Valued, by_value
from deepseemoe.runtime.files import write_json
from deepseemoe.runtime.seeds import generator
from deepseemoe.runtime.tables import digest, write_table

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
    bill: Path,
    seed: int,
    reads: Path | None = None,
    answers: Path | None = None,
    name: str = "features",
    parts: int = 1,
) -> None:
    """Write a description of each frequent feature to `features`, its scores to `scores`.

    `reads` is the map whose tiers say which features come first. `answers` is the folder that keeps
    a language model's answers, in the file `name`; it is no output, so that answers survive a
    failure; by default it stands beside `features`. `bill` says what they took, and `parts` how
    many dictionaries and windows share the budget. Raises ValueError where the key of the server
    is missing, or where it cannot be used.
    """
    valued = by_value(density, reads, config)
    if config.labeller == "openai":
        prompts = prompt_versions(config.prompts)
        labeller = LlmLabeller(
            config,
            contexts=ContextTable(
                examples,
                redacted=config.redact,
                documents=allowed_documents(documents, config.domains),
            ),
            answers=answers or features.with_name("answers"),
            name=name,
            budget=Budget.share_of(config, parts, "features"),
            seed=seed,
        )
        labelled, spent = labeller.label(valued), labeller.bill
    else:
        text = FeatureText.read(shards)
        reading = read_text(text, documents=documents, tokenizer=tokenizer)
        labeller = OfflineLabeller(reading, text.matrix, random=generator(seed, "labels"))
        labelled, spent, prompts = labeller.label(valued.features.tolist()), Bill(), {}
    nulls = nulls_of(labelled)
    manifest = {
        "labeller": labeller.name,
        "config": digest(config.what_is_asked()),
        "seed": seed,
        "prompts": prompts,
        "null": {scorer: null._asdict() for scorer, null in nulls.items()},
    }
    _log_scores(labelled, nulls)
    write_table(features, FEATURES, _feature_rows(labelled, valued, labeller.name), manifest)
    write_table(scores, SCORES, _score_rows(labelled, nulls), manifest)
    write_json(bill, spent.plain())


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


def _log_scores(labelled: Sequence[Labelled], nulls: Mapping[str, Null]) -> None:
    """Log how well descriptions do, scorer by scorer."""
    found: dict[str, list[float]] = {}
    for one in labelled:
        for score in one.scores:
            if score.balanced_accuracy is not None:
                found.setdefault(score.scorer, []).append(score.balanced_accuracy)
    for scorer, values in found.items():
        null = nulls[scorer].mean if scorer in nulls else float("nan")
        told = "%s: mean balanced accuracy %.3f over %d features; of swapped descriptions %.3f"
        logger.info(told, scorer, np.mean(values), len(values), null)


def _feature_rows(
    labelled: Sequence[Labelled], valued: Valued, labeller: str
) -> list[dict[str, Any]]:
    """Return the rows of features.parquet, by feature."""
    rows = [
        {
            "feature": one.feature,
            **one.explanation._asdict(),
            "n_active": int(n_active),
            "best_tier": tier,
            "labeller": labeller,
        }
        for one, n_active, tier in zip(labelled, valued.n_active, valued.tiers, strict=True)
    ]
    return sorted(rows, key=lambda row: row["feature"])


def _score_rows(labelled: Sequence[Labelled], nulls: Mapping[str, Null]) -> list[dict[str, Any]]:
    """Return the rows of scores.parquet, by feature, then in the order of scorers."""
    rows = []
    for one in sorted(labelled, key=lambda one: one.feature):
        for score, swapped in zip(one.scores, one.nulls, strict=True):
            lifted = lift(score, nulls)
            rows.append(
                {
                    "feature": one.feature,
                    **score._asdict(),
                    "null": lifted.null,
                    "lift": lifted.value,
                    "lift_lo": lifted.lo,
                    "lift_hi": lifted.hi,
                    "swapped": swapped.balanced_accuracy if swapped else None,
                }
            )
    return rows
