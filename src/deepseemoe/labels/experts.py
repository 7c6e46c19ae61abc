"""Describe experts, and score the descriptions by the routing that they predict.

Everything is made from the explaining half of the test documents and judged on the other half:
`token is sent to expert` is what a feature's firing is to the labeller of features.

Axes: T tokens, E experts of a layer.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.bill import Bill
from deepseemoe.labels.asking.budget import Budget
from deepseemoe.labels.asking.prompts import prompt_versions
from deepseemoe.labels.contexts import allowed_documents
from deepseemoe.labels.expert_clusters import Clusters
from deepseemoe.labels.expert_contexts import ExpertContexts, Side, contexts_of, facts
from deepseemoe.labels.expert_judging import Judged, judge_experts
from deepseemoe.labels.expert_labels import LABELLER, Described, describe, model_description
from deepseemoe.labels.expert_llm import Answered, Asked, ExpertLabeller
from deepseemoe.labels.expert_scores import ExpertScore, Interval
from deepseemoe.labels.expert_tables import MAX_Q, Found, read_found, read_names, read_tested
from deepseemoe.labels.expert_text import RoutedText, read_routed
from deepseemoe.labels.schemas import EXPERT_SCORES, EXPERTS
from deepseemoe.labels.shared_experts import describe_shared
from deepseemoe.runtime.files import read_json, write_json
from deepseemoe.runtime.seeds import generator
from deepseemoe.runtime.tables import digest, write_table

logger = logging.getLogger(__name__)

N_LISTED = 8
"""Features and tokens of an expert that the columns list."""


def label_experts(
    config: LabelsConfig,
    *,
    reads: Path,
    summary: Path,
    feature_labels: Path,
    routing: Path,
    shards: Sequence[Path],
    stores: Sequence[Path],
    weights: Path,
    documents: Path,
    tokenizer: Path,
    experts: Path,
    scores: Path,
    seed: int,
    writes: Path | None = None,
    shared: Path | None = None,
    expert_domains: Sequence[str] = (),
    bill: Path | None = None,
    answers: Path | None = None,
    name: str = "experts",
    parts: int = 1,
) -> None:
    """Write a description of each expert of the mapped layers to `experts`, scores to `scores`.

    `summary` is that of the map: it names the layers, also where no pair could be tested.
    `routing` is the folder with load, domains and vocabulary; `shards` and `stores` are features
    and activations of the test split, `weights` those of the dictionary. `writes` adds the features
    that the expert's output holds, `shared` a row of each layer's shared experts. `expert_domains`
    says what each expert was made for, where that is known. `answers` is the folder that keeps a
    language model's answers, in the file `name`; by default it stands beside `experts`. `bill` says
    what they took, and `parts` how many dictionaries and windows share the budget. Raises
    ValueError where files do not belong together, or the server cannot be used.
    """
    layers = read_json(summary)["layers"]
    found = read_found(routing, reads=reads, layers=layers, writes=writes)
    names = read_names(feature_labels)
    text = read_routed(
        shards,
        stores,
        layers=layers,
        features=sorted({feature for one in found for feature in one.called_by}),
        documents=documents,
        tokenizer=tokenizer,
    )
    judged = list(judge_experts(found, text))
    made_for = [_made_for(one.found, expert_domains) for one in judged]
    described = [
        _described(config, one, names=names, text=text, made_for=made)
        for one, made in zip(judged, made_for, strict=True)
    ]
    score_rows = [row for one in judged for row in _score_rows(one)]
    labeller, spent, prompts = LABELLER, Bill(), {}
    if config.labeller == "openai":
        asking = ExpertLabeller(
            config,
            answers=answers or experts.with_name("answers"),
            name=name,
            budget=Budget.share_of(config, parts, "experts"),
            seed=seed,
        )
        allowed = allowed_documents(documents, config.domains)
        answered = ask_about(asking, found, text, names, config, allowed=allowed, seed=seed)
        described = [
            model_description(one, said.found, names=names, made_for=made)
            for one, said, made in zip(answered, judged, made_for, strict=True)
        ]
        score_rows += [
            score_row(one.found, "routing", said.score, said.status, said.reason, said.n_failed)
            for one, said in zip(judged, answered, strict=True)
        ]
        labeller, spent, prompts = asking.name, asking.bill, prompt_versions(config.prompts)
    rows = [
        _row(one.found, said, made, labeller)
        for one, said, made in zip(judged, described, made_for, strict=True)
    ]
    if shared:
        vocabulary = text.reading.vocabulary.texts
        rows += describe_shared(shared, documents=documents, vocabulary=vocabulary, names=names)
    rows.sort(key=lambda row: (row["layer"], row["is_shared"], row["expert"]))
    clusters = Clusters(weights, read_tested(reads), generator(seed, "expert clusters"))
    rows = [_listed(row) | clusters.of(row["features"]) for row in rows]
    score_rows.sort(key=lambda row: (row["layer"], row["expert"]))
    manifest = {
        "layers": layers,
        "max_q": MAX_Q,
        "labeller": labeller,
        "prompts": prompts,
        "config": digest(config.model_dump(mode="json")),
        "seed": seed,
        "n_tokens": int(text.reading.is_valid.sum()),
        "f1_15_85": mean_f1(score_rows),
    }
    _tell(rows, manifest["f1_15_85"])
    write_table(experts, EXPERTS, rows, manifest)
    write_table(scores, EXPERT_SCORES, score_rows, manifest)
    if bill:
        write_json(bill, spent.plain())


def ask_about(
    labeller: ExpertLabeller,
    found: Sequence[Found],
    text: RoutedText,
    names: Mapping[int, str],
    config: LabelsConfig,
    *,
    allowed: np.ndarray | None,
    seed: int,
) -> list[Answered]:
    """Return what the labeller says of each expert; facts are of the explaining half alone."""
    explaining, scoring = (Side.of(half, allowed) for half in text.halves())

    def contexts(place: int) -> ExpertContexts:
        one = found[place]
        random = generator(seed, "expert contexts", one.layer, one.expert)
        return contexts_of(
            one.layer,
            one.expert,
            explaining=explaining,
            scoring=scoring,
            config=config,
            random=random,
        )

    asked = [
        Asked(one.layer, one.expert, facts(explaining, one, names, redacted=config.redact))
        for one in found
    ]
    return labeller.label(asked, contexts)


def mean_f1(score_rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean F1 at 15 to 85 of each scorer over experts that have one."""
    values: dict[str, list[float]] = {}
    for row in score_rows:
        if row["f1_15_85"] is not None:
            values.setdefault(row["scorer"], []).append(row["f1_15_85"])
    return {scorer: float(np.mean(found)) for scorer, found in values.items()}


def _described(
    config: LabelsConfig,
    one: Judged,
    *,
    names: Mapping[int, str],
    text: RoutedText,
    made_for: str | None,
) -> Described:
    own = one.scores["rule"]
    said = describe(
        one.found,
        rule=one.rule,
        score=own,
        names=names,
        vocabulary=text.reading.vocabulary,
        made_for=made_for,
    )
    if min(one.n_explaining, own.n_positive) >= config.min_contexts:
        return said
    reason = (
        f"{one.n_explaining} tokens in the explaining documents and {own.n_positive} in the "
        f"others; min_contexts is {config.min_contexts}"
    )
    return said._replace(status="few_contexts", reason=reason)


def _made_for(found: Found, expert_domains: Sequence[str]) -> str | None:
    return expert_domains[found.expert] if expert_domains else None


def _row(found: Found, said: Described, made_for: str | None, labeller: str) -> dict[str, Any]:
    return {
        "layer": found.layer,
        "expert": found.expert,
        "is_shared": False,
        **said._asdict(),
        "made_for": made_for,
        "share": found.share,
        "top_domain": found.domain and found.domain.name,
        "domain_lift": found.domain and found.domain.lift,
        "features": found.called_by,
        "tier": found.tier,
        "tokens": [token.text for token in found.tokens],
        "labeller": labeller,
    }


def _listed(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose lists are as long as the table has them."""
    return row | {name: list(row[name][:N_LISTED]) for name in ("features", "tokens")}


def _score_rows(one: Judged) -> Iterator[dict[str, Any]]:
    for scorer, score in one.scores.items():
        yield score_row(one.found, scorer, score, *_standing(one, scorer, score))


def _standing(one: Judged, scorer: str, score: ExpertScore) -> tuple[str, str]:
    if score.f1.value is None:
        return "few_contexts", f"{score.n_positive} tokens with it and {score.n_negative} without"
    if scorer == "rule" and one.rule is None:
        return "no_rule", "no rule repeats itself in two documents"
    if scorer == "features" and not one.found.called_by:
        return "no_features", "no feature calls it in any tier"
    return "scored", ""


def score_row(
    found: Found,
    scorer: str,
    score: ExpertScore | None,
    status: str,
    reason: str,
    n_failed: int = 0,
) -> dict[str, Any]:
    """Return a row of expert_scores.parquet."""
    row: dict[str, Any] = {"layer": found.layer, "expert": found.expert, "scorer": scorer}
    for name, value in (score or ExpertScore(0, 0))._asdict().items():
        if isinstance(value, Interval):
            row |= {name: value.value, f"{name}_lo": value.lo, f"{name}_hi": value.hi}
        else:
            row[name] = value
    return row | {"n_failed": n_failed, "status": status, "reason": reason}


def _tell(rows: Sequence[Mapping[str, Any]], f1: Mapping[str, float]) -> None:
    n_labelled = sum(row["status"] == "labelled" for row in rows)
    told = ", ".join(f"{scorer} {value:.3f}" for scorer, value in f1.items())
    logger.info("%d of %d experts are described; mean F1 at 15:85: %s", n_labelled, len(rows), told)
