"""Put into words what is known of an expert, and nothing that is not.

An executable rule is claimed where it tells held-out routing better than the other experts' rules
do; else the label falls back to a domain or to tokens that are sure. Features that call the expert
and features that it writes follow, by the map's own false discovery rate.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
    """Return the offline description: `code: token “self” · called by F00012 token “import”`."""
    claimed = rule if rule is not None and is_claimed(score) else None
    kind = claimed.kind if claimed else "tables"
    told = [_what_routes(found, claimed, vocabulary), _features("called by", found.called_by, names)]
    routes = [part for part in told if part]
    parts = [f"made for {made_for}"] if made_for else []
    parts += routes or [NOTHING]
    parts += [_features("writes", found.writes, names)] if found.writes else []
    detail = json.dumps({"rule": rule and to_json(rule), "is_claimed": claimed is not None})
    label = " · ".join(parts)
    if not routes:
        return Described(label, "unclear", "unclear", _nothing_stands_out(rule, score), detail)
    return Described(label, kind, "labelled", detail=detail)


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


def _what_routes(found: Found, rule: Rule | None, vocabulary: Vocabulary) -> str:
    domain = found.domain.name if found.domain and found.domain.is_sure else ""
    if rule is not None:
        said = rule.label(vocabulary)
        return said if rule.kind == "domain" or not domain else f"{domain}: {said}"
    tokens = quoted([token.text for token in found.tokens if token.is_sure][:N_NAMED])
    return ": ".join(part for part in (domain, tokens) if part)


def _features(what: str, features: Sequence[int], names: Mapping[int, str]) -> str:
    """Return `called by F00012 token “import”, F00034`; nothing without features."""
    found = [f"F{n:05d} {_shortened(names.get(n, ''))}".strip() for n in features[:N_NAMED]]
    return f"{what} {', '.join(found)}" if found else ""


def _nothing_stands_out(rule: Rule | None, score: ExpertScore) -> str:
    best = f"the best rule has {lift_in_words(score)}" if rule else "no rule repeats itself"
    return f"no domain, token or feature stands out; {best}"


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"
