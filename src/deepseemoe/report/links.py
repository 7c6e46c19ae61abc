"""What the page tells of the maps: the most selective experts, and the clearest features.

A link is a kept pair whose log odds ratio is above 0: the feature calls the expert. The links of an
expert come in the order of the map's own `rank`, by regression and causal effect; of equals
from several maps the one with the higher lower end of its interval comes first, so that rare
features do not win by luck. A label is shown once for an expert, since neighbouring windows find
the same feature again.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from deepseemoe.names import ExpertId
from deepseemoe.report.maps import Map
from deepseemoe.report.names import Trained
from deepseemoe.report.views import Accuracy, FeatureKey

MAX_LOOKED_AT = 200
"""Links of an expert that are looked through for different labels."""
N_LINKS = 3
"""Links that a clear feature is shown with."""


class Link(NamedTuple):
    """A feature that calls an expert, with the evidence."""

    expert: ExpertId
    feature: FeatureKey
    label: str
    p_e_given_f: float
    p_e: float
    lift: float
    lor: float
    lor_lo: float
    lor_hi: float
    q: float
    w_map: float
    causal_dp: float
    causal_dp_lo: float
    causal_dp_hi: float
    is_token: bool
    tier: str
    rank: float


class ClearFeature(NamedTuple):
    """A feature whose label tells where it fires, with the experts that it calls most surely."""

    feature: FeatureKey
    label: str
    accuracy: Accuracy
    links: list[Link]


def links_by_expert(one: Trained, found: Map, n: int) -> dict[ExpertId, list[Link]]:
    """Return up to `n` links of each expert with different labels, best first."""
    kept = found.kept
    called = np.flatnonzero(kept["lor"] > 0)
    keys = (kept["rank"][called], kept["expert"][called], kept["layer"][called])
    order = called[np.lexsort(keys)]
    pairs = np.stack([kept["layer"][order], kept["expert"][order]], axis=1).astype(int)
    opens = np.flatnonzero(np.any(np.diff(pairs, axis=0, prepend=-1), axis=1))
    links = {}
    for start, stop in pairwise([*opens.tolist(), len(order)]):
        rows = order[start : min(stop, start + MAX_LOOKED_AT)].tolist()
        mine = [_link(one, found, row) for row in rows]
        links[ExpertId(*pairs[start].tolist())] = different(mine, n)
    return links


def merge_links(
    maps: Iterable[Mapping[ExpertId, list[Link]]], n: int
) -> dict[ExpertId, list[Link]]:
    """Return the best `n` links of each expert over several maps."""
    every: dict[ExpertId, list[Link]] = {}
    for links in maps:
        for expert, mine in links.items():
            every.setdefault(expert, []).extend(mine)
    return {
        expert: different(sorted(mine, key=lambda link: (link.rank, -link.lor_lo)), n)
        for expert, mine in every.items()
    }


def most_selective(links: Mapping[ExpertId, list[Link]], n: int) -> list[ExpertId]:
    """Return the `n` experts whose links have the highest sum of lower ends, a missing one 0."""
    score = {expert: sum(max(link.lor_lo, 0) for link in mine) for expert, mine in links.items()}
    return sorted(links, key=lambda expert: (-score[expert], expert))[:n]


def clear_features(
    one: Trained, found: Map, accuracies: Mapping[int, Accuracy], n: int
) -> list[ClearFeature]:
    """Return the `n` features of a map whose different labels have the highest lower ends."""
    ranked = sorted(accuracies, key=lambda f: (-accuracies[f].lo, -accuracies[f].value, f))
    chosen: dict[str, int] = {}
    for feature in ranked:
        if feature in found.labels:
            chosen.setdefault(found.labels[feature], feature)
        if len(chosen) == n:
            break
    return [
        ClearFeature((one, feature), label, accuracies[feature], _links_of(one, found, feature))
        for label, feature in chosen.items()
    ]


def merge_clear(features: Iterable[ClearFeature], n: int) -> list[ClearFeature]:
    """Return the clearest `n` features over several maps, labels all different."""
    ranked = sorted(features, key=lambda one: (-one.accuracy.lo, -one.accuracy.value))
    return different(ranked, n)


def different(labelled: list, n: int) -> list:
    """Return the first `n` of what carries a label, whose labels differ."""
    first: dict[str, object] = {}
    for one in labelled:
        first.setdefault(one.label, one)
    return list(first.values())[:n]


def _links_of(one: Trained, found: Map, feature: int) -> list[Link]:
    kept = found.kept
    rows = np.flatnonzero((kept["feature"] == feature) & (kept["lor"] > 0))
    rows = rows[np.argsort(-kept["lor_lo"][rows], kind="stable")][:N_LINKS]
    return [_link(one, found, row) for row in rows.tolist()]


def _link(one: Trained, found: Map, row: int) -> Link:
    kept = found.kept
    feature = int(kept["feature"][row])
    return Link(
        ExpertId(int(kept["layer"][row]), int(kept["expert"][row])),
        (one, feature),
        found.labels.get(feature, "not labelled"),
        *(kept[name][row].item() for name in Link._fields[3:-2]),
        str(kept["tier"][row]),
        float(kept["rank"][row]),
    )
