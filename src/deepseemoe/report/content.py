"""Everything that the summary page shows of a run's tables, gathered one map at a time."""

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deepseemoe.config import ReportConfig
from deepseemoe.names import ExpertId
from deepseemoe.report.corpus import DOCUMENT_COLUMNS, CorpusView, view_corpus
from deepseemoe.report.experts import ExpertView, Routing, read_routing, view_expert
from deepseemoe.report.findings import findings
from deepseemoe.report.keynumbers import KeyNumbers, key_numbers
from deepseemoe.report.labels import null_score
from deepseemoe.report.links import (
    ClearFeature,
    Link,
    clear_features,
    links_by_expert,
    merge_clear,
    merge_links,
    most_selective,
)
from deepseemoe.report.maps import Map, read_map
from deepseemoe.report.names import Trained
from deepseemoe.report.reconstruction import read_metrics
from deepseemoe.report.tables import RunTables
from deepseemoe.report.views import FeatureKey, FeatureView, read_accuracies, view_features
from deepseemoe.report.writes import strongest_writes
from deepseemoe.runtime.files import read_json
from deepseemoe.runtime.tables import read_manifest

if TYPE_CHECKING:
    from deepseemoe.config import RunConfig


class Sizes(NamedTuple):
    """The routed part of the model, as the routing tables show it."""

    n_layers: int
    n_experts: int
    top_k: int


class Null(NamedTuple):
    """What one dictionary finds where nothing is to be found; None where it was not measured.

    `labels` is the balanced accuracy of labels given to other features, `below_05` the share of the
    map's p values below .05 when permuted documents stand in for the data.
    """

    dictionary: str
    window: str
    labels: float | None
    below_05: float | None


class MapDigest(NamedTuple):
    """What the page needs of one map, so that maps are in memory one at a time."""

    numbers: KeyNumbers
    links: dict[ExpertId, list[Link]]
    clear: list[ClearFeature]
    n_links: Counter[ExpertId]


class Content(NamedTuple):
    """All that the page shows; `features` has a view of every feature that is named in it."""

    sizes: Sizes
    corpus: CorpusView
    numbers: list[KeyNumbers]
    findings: list[str]
    n_links: Counter[ExpertId]
    experts: list[ExpertView]
    clear: list[ClearFeature]
    features: dict[FeatureKey, FeatureView]
    nulls: list[Null]


def gather(config: ReportConfig, *, run: "RunConfig", tables: RunTables) -> Content:
    """Read the tables of a run and return what its page shows."""
    metrics = read_metrics(tables)
    digests = [
        _digest(config, tables, one, run.dictionaries[one.dictionary].d_dict, metrics[one])
        for one in tables.trained
    ]
    routing = read_routing(tables)
    links = merge_links((one.links for one in digests), config.features_per_expert)
    chosen = most_selective(links, config.n_experts)
    clear = merge_clear((one for digest in digests for one in digest.clear), config.n_experts)
    surest = max((link for mine in links.values() for link in mine), key=_lower_end, default=None)
    named = {link.feature for expert in chosen for link in links[expert]}
    named |= {one.feature for one in clear}
    numbers = [one.numbers for one in digests]
    return Content(
        sizes=_sizes(routing),
        corpus=view_corpus(tables.read("corpus/documents.parquet", *DOCUMENT_COLUMNS)),
        numbers=numbers,
        findings=findings(numbers, surest, routing.load, routing.domains),
        n_links=sum((one.n_links for one in digests), Counter()),
        experts=_experts(tables, routing, {expert: links[expert] for expert in chosen}),
        clear=clear,
        features=view_features(tables, named, config.contexts_per_feature),
        nulls=[read_null(tables, one) for one in tables.trained],
    )


def read_null(tables: RunTables, one: Trained) -> Null:
    """Return what the nulls of a map and of its labels gave."""
    scores = read_manifest(tables.at("labels", one, "scores.parquet"))
    summary = read_json(tables.at("experts", one, "summary.json"))
    below = summary.get("null", {}).get("share_p_below_.05")
    return Null(one.dictionary, str(one.window), null_score(scores), below)


def _digest(
    config: ReportConfig, tables: RunTables, one: Trained, d_dict: int, metrics: dict[str, Any]
) -> MapDigest:
    found, accuracies = read_map(tables, one), read_accuracies(tables, one)
    return MapDigest(
        numbers=key_numbers(one, d_dict, metrics, found, accuracies),
        links=links_by_expert(one, found, config.features_per_expert),
        clear=clear_features(one, found, accuracies, config.n_experts),
        n_links=_count_links(found),
    )


def _count_links(found: Map) -> Counter[ExpertId]:
    called = found.kept["lor"] > 0
    pairs = np.stack([found.kept["layer"][called], found.kept["expert"][called]], axis=1)
    experts, counts = np.unique(pairs.astype(int), axis=0, return_counts=True)
    return Counter(
        {ExpertId(*pair): n for pair, n in zip(experts.tolist(), counts.tolist(), strict=True)}
    )


def _experts(
    tables: RunTables, routing: Routing, links: dict[ExpertId, list[Link]]
) -> list[ExpertView]:
    writes = strongest_writes(tables, links)
    return [
        view_expert(tables, expert, routing=routing, links=mine, writes=writes.get(expert, []))
        for expert, mine in links.items()
    ]


def _sizes(routing: Routing) -> Sizes:
    load = routing.load
    layers = {int(layer) for layer in load["layer"]}
    top_k = round(float(load["share"].sum()) / len(layers))
    return Sizes(len(layers), int(load["expert"].max()) + 1, top_k)


def _lower_end(link: Link) -> float:
    return link.lor_lo
