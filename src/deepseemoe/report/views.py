"""Features as the page shows them: their label, how well it tells them, where they fire."""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from deepseemoe.names import FeatureId
from deepseemoe.report.contexts import Context, spans
from deepseemoe.report.labels import SCORE_COLUMNS, of_main
from deepseemoe.report.names import Trained
from deepseemoe.report.tables import RunTables, read_columns, select

EXAMPLE_COLUMNS = (
    "feature", "half", "group", "rank", "doc_id", "peak", "tokens", "activations",
)  # fmt: skip

FeatureKey = tuple[Trained, int]
"""A feature of one dictionary on one window."""


class Accuracy(NamedTuple):
    """Balanced accuracy of a label with its interval; the least sure where scorers differ."""

    value: float
    lo: float
    hi: float


class FeatureView(NamedTuple):
    """One feature with its label, how often it fires (share of test tokens) and its contexts."""

    id: str
    dictionary: str
    label: str
    density: float
    accuracy: Accuracy | None
    contexts: tuple[Context, ...]


def view_features(
    tables: RunTables, wanted: Iterable[FeatureKey], n_contexts: int
) -> dict[FeatureKey, FeatureView]:
    """Return views of some features, each with up to `n_contexts` top contexts."""
    return {
        (one, feature): view
        for one, features in _by_dictionary(wanted).items()
        for feature, view in _view(tables, one, features, n_contexts).items()
    }


def labels_of(tables: RunTables, wanted: Iterable[FeatureKey]) -> dict[FeatureKey, str]:
    """Return the labels of some features."""
    found = {}
    for one, features in _by_dictionary(wanted).items():
        labels = _rows(tables, one, "labels/features.parquet", features, "label")["label"]
        found |= {(one, feature): labels.get(feature, "not labelled") for feature in features}
    return found


def _by_dictionary(wanted: Iterable[FeatureKey]) -> dict[Trained, list[int]]:
    """Return features by dictionary, in rising order."""
    found: dict[Trained, list[int]] = {}
    for one, feature in sorted(set(wanted)):
        found.setdefault(one, []).append(feature)
    return found


def read_accuracies(tables: RunTables, one: Trained) -> dict[int, Accuracy]:
    """Return the accuracy of each scored feature of a dictionary, by the main scorer."""
    table = of_main(read_columns(tables.at("labels", one, "scores.parquet"), *SCORE_COLUMNS))
    table = select(table, np.isfinite(table["balanced_accuracy"].astype(float)))
    columns = (table[name].tolist() for name in ("feature", "balanced_accuracy", "lo", "hi"))
    return {feature: Accuracy(*numbers) for feature, *numbers in zip(*columns, strict=True)}


def _view(
    tables: RunTables, one: Trained, features: list[int], n_contexts: int
) -> dict[int, FeatureView]:
    labels = _rows(tables, one, "labels/features.parquet", features, "label")["label"]
    densities = _rows(
        tables, one, "features/density.parquet", features, "density", "max_activation"
    )
    accuracies = read_accuracies(tables, one)
    contexts = _contexts(tables, one, features, densities["max_activation"], n_contexts)
    return {
        feature: FeatureView(
            id=str(FeatureId(one.window, feature)),
            dictionary=one.dictionary,
            label=labels.get(feature, "not labelled"),
            density=densities["density"].get(feature, 0.0),
            accuracy=accuracies.get(feature),
            contexts=contexts.get(feature, ()),
        )
        for feature in features
    }


def _rows(
    tables: RunTables, one: Trained, path: str, features: Collection[int], *columns: str
) -> dict[str, dict[int, object]]:
    """Return, for each column, the values of some features by feature."""
    stage, file = path.split("/")
    wanted = pc.field("feature").isin(list(features))
    table = read_columns(tables.at(stage, one, file), "feature", *columns, where=wanted)
    ids = table["feature"].tolist()
    return {name: dict(zip(ids, table[name].tolist(), strict=True)) for name in columns}


def _contexts(
    tables: RunTables,
    one: Trained,
    features: Collection[int],
    highest: Mapping[int, object],
    n_contexts: int,
) -> dict[int, tuple[Context, ...]]:
    """Return the top contexts of some features, strongest first: what they are described from.

    A feature that fires in no document of that half shows those of the other one.
    """
    wanted = pc.field("feature").isin(list(features)) & (pc.field("group") == "top")
    wanted &= pc.field("rank") < n_contexts
    table = read_columns(
        tables.at("features", one, "examples.parquet"), *EXAMPLE_COLUMNS, where=wanted
    )
    domains = _domains(tables, table["doc_id"])
    found: dict[int, list[Context]] = {}
    for row in np.lexsort((table["rank"], table["half"], table["feature"])):
        feature, peak = int(table["feature"][row]), int(table["peak"][row])
        values = table["activations"][row]
        shown = spans(table["tokens"][row], values, peak, float(highest[feature]))
        context = Context(domains.get(int(table["doc_id"][row])), float(values[peak]), shown)
        found.setdefault(feature, []).append(context)
    return {feature: tuple(contexts[:n_contexts]) for feature, contexts in found.items()}


def _domains(tables: RunTables, doc_ids: np.ndarray) -> dict[int, str | None]:
    """Return the domain of some documents."""
    where = pc.field("doc_id").isin(np.unique(doc_ids).tolist())
    table = read_columns(tables.root / "corpus/documents.parquet", "doc_id", "domain", where=where)
    return dict(zip(table["doc_id"].tolist(), table["domain"].tolist(), strict=True))
