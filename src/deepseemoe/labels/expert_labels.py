"""Put into words what is known of an expert, and nothing that is not.

An executable rule is claimed where it tells held-out routing better than the other experts' rules
do; else the label falls back to a domain or to tokens that are sure. Features that call the expert
and features that it writes follow, by the map's own false discovery rate.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from deepseemoe.labels.expert_llm import Answered
from deepseemoe.labels.expert_scores import ExpertScore
from deepseemoe.labels.expert_tables import Found
from deepseemoe.labels.reading import Vocabulary
from deepseemoe.labels.rules import Rule, quoted, to_json

MIN_BALANCED_ACCURACY = 0.55
"""A rule below that says next to nothing, however sure it is with millions of tokens."""

N_NAMED = 3
"""Features and tokens that a label names."""

NAME_LENGTH = 48
"""Characters of a feature's label inside an expert's."""

LABELLER = "offline rules (no language model)"

NOTHING = "no preference found"


class Described(NamedTuple):
    """What is said of an expert, as the columns of experts.parquet have it."""

    label: str
    kind: str
    status: str
    reason: str = ""
    detail: str = ""


def describe(
    found: Found,
    *,
    rule: Rule | None,
    score: ExpertScore,
    names: Mapping[int, str],
    vocabulary: Vocabulary,
    made_for: str | None = None,
) -> Described:
    """Return the offline description: `token “self” · more of code (×2.0) · called by F00012`."""
    claimed = rule if rule is not None and is_claimed(score) else None
    kind = claimed.kind if claimed else "tables"
    routes = _what_routes(found, claimed, vocabulary)
    if found.called_by:
        routes.append(features_in_words("called by", found.called_by, names))
    parts = [f"made for {made_for}"] if made_for else []
    parts += routes or [NOTHING]
    parts += [features_in_words("writes", found.writes, names)] if found.writes else []
    detail = json.dumps({"rule": rule and to_json(rule), "is_claimed": claimed is not None})
    label = " · ".join(parts)
    if not routes:
        return Described(label, "unclear", "unclear", _nothing_stands_out(rule, score), detail)
    return Described(label, kind, "labelled", detail=detail)


def model_description(
    answered: Answered, found: Found, *, names: Mapping[int, str], made_for: str | None = None
) -> Described:
    """Return a language model's description, unless it predicts no routing on held-out text."""
    said, score = answered.explanation, answered.score
    status, reason, label, detail = said.status, said.reason, said.label, said.detail
    if status == "labelled" and score is not None and is_refuted(score):
        detail = json.dumps({"label": label, "reasons": detail}, ensure_ascii=False)
        reason = f"the model's description has {lift_in_words(score)}"
        status, label = "unclear", NOTHING
    parts = [f"made for {made_for}"] if made_for else []
    parts.append(label)
    if found.called_by:
        parts.append(features_in_words("called by", found.called_by, names))
    if found.writes:
        parts.append(features_in_words("writes", found.writes, names))
    kind = "unclear" if status == "unclear" else said.kind
    return Described(" · ".join(parts), kind, status, reason, detail)


def is_refuted(score: ExpertScore) -> bool:
    """Return whether a description was judged, and is not surely better than chance and the null.

    The null is what descriptions get on other experts' tokens, where that was measured.
    """
    own, lift = score.balanced_accuracy, score.lift
    return (own.lo is not None and own.lo <= 0.5) or (lift.lo is not None and lift.lo <= 0)


def is_claimed(score: ExpertScore) -> bool:
    """Return whether a description does well enough on held-out documents to be told."""
    own, lift = score.balanced_accuracy, score.lift
    if own.value is None or own.lo is None or lift.lo is None:
        return False
    return own.value >= MIN_BALANCED_ACCURACY and own.lo > 0.5 and lift.lo > 0


def lift_in_words(score: ExpertScore) -> str:
    """Return `balanced accuracy 0.52, lift over the other experts' descriptions -0.01 to 0.03`."""
    own, lift = score.balanced_accuracy, score.lift
    if own.value is None:
        return "nothing to judge by"
    told = f"balanced accuracy {own.value:.2f}"
    if lift.lo is None or lift.hi is None:
        return told
    return f"{told}, lift over the other experts' descriptions {lift.lo:.2f} to {lift.hi:.2f}"


def _what_routes(found: Found, rule: Rule | None, vocabulary: Vocabulary) -> list[str]:
    """Return what is sent to it: the rule, or else its tokens; and the domain that it prefers.

    A domain beside a rule is a second finding and no condition of it, so each stands alone.
    """
    tokens = quoted([token.text for token in found.tokens if token.is_sure][:N_NAMED])
    said = rule.label(vocabulary) if rule is not None else f"more of {tokens}" if tokens else ""
    parts = [said] if said else []
    if found.domain and found.domain.is_sure and found.domain.name not in said:
        parts.append(f"more of {found.domain.name} (×{found.domain.lift:.1f})")
    return parts


def features_in_words(what: str, features: Sequence[int], names: Mapping[int, str]) -> str:
    """Return `called by F00012 token “import”, F00034`."""
    found = [f"F{n:05d} {_shortened(names.get(n, ''))}".strip() for n in features[:N_NAMED]]
    return f"{what} {', '.join(found)}"


def _nothing_stands_out(rule: Rule | None, score: ExpertScore) -> str:
    best = f"the best rule has {lift_in_words(score)}" if rule else "no rule repeats itself"
    return f"no domain, token or feature stands out; {best}"


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"
