"""What the tables of a run are called in SQL, where they stand, and what one row is.

A table that is not named here is found all the same: its view is called after its file, and its
columns explain themselves (`runtime.tables.write_table` keeps their meaning in the file).
"""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

import deepseemoe
from deepseemoe.runtime.tables import Column, Columns

EACH = "{dictionary}/{window}"


class Entry(NamedTuple):
    """One table: its view, its place below `results/{run}`, its columns as `module:NAME`."""

    view: str
    path: str
    schema: str
    meaning: str


ENTRIES = (
    Entry("documents", "corpus/documents.parquet", "corpus.documents:DOCUMENT_COLUMNS",
          "one row a document that was read, kept or dropped"),
    Entry("model_training", "model/training.parquet", "model.training:COLUMNS",
          "one row a step that was logged, where the run trains its own model"),
    Entry("dictionary_training", f"dictionary/{EACH}/training.parquet",
          "dictionary.curves:COLUMNS", "one row a step of training that was logged"),
    Entry("density", f"features/{EACH}/density.parquet", "features.schemas:DENSITY",
          "one row a feature: how often it fires"),
    Entry("examples", f"features/{EACH}/examples.parquet", "features.schemas:EXAMPLES",
          "one row a context of a feature"),
    Entry("neighbours", f"features/{EACH}/neighbours.parquet", "features.schemas:NEIGHBOURS",
          "one row a feature and one of the features nearest to it"),
    Entry("load", "routing/load.parquet", "routing.schemas:LOAD",
          "one row a routed expert: how many tokens choose it"),
    Entry("coactivation", "routing/coactivation.parquet", "routing.schemas:COACTIVATION",
          "one row an ordered pair of experts of a layer"),
    Entry("vocabulary", "routing/vocabulary.parquet", "routing.schemas:VOCABULARY",
          "one row an expert and a token that chooses it"),
    Entry("domains", "routing/domains.parquet", "routing.schemas:DOMAINS",
          "one row an expert and a domain of documents"),
    Entry("load_layers", "routing/load_layers.parquet", "routing.schemas:LOAD_LAYERS",
          "one row a router: how evenly it spreads tokens, how sharply it decides"),
    Entry("vocabulary_next", "routing/vocabulary_next.parquet", "routing.schemas:VOCABULARY_NEXT",
          "one row an expert and a token that follows what it is chosen for"),
    Entry("vocabulary_layers", "routing/vocabulary_layers.parquet",
          "routing.schemas:VOCABULARY_LAYERS",
          "one row a router and side (read or predicted): what experts tell of tokens"),
    Entry("specialisation", "routing/specialisation.parquet", "routing.schemas:SPECIALISATION",
          "one row a router: what experts tell of domains, in bits, against permuted documents"),
    Entry("divergence", "routing/divergence.parquet", "routing.schemas:DIVERGENCE",
          "one row a router and two domains: how differently they use experts"),
    Entry("relevance", "routing/relevance.parquet", "routing.schemas:RELEVANCE",
          "one row an expert and a domain: ESFT's scores, and whether it is chosen"),
    Entry("paths", "routing/paths.parquet", "routing.schemas:PATHS",
          "one row an expert and one of the next layer with experts"),
    Entry("paths_layers", "routing/paths_layers.parquet", "routing.schemas:PATHS_LAYERS",
          "one row a layer and the next: how many bits their routers share"),
    Entry("paths_top", "routing/paths_top.parquet", "routing.schemas:PATHS_TOP",
          "one row a path over three layers that many tokens take"),
    Entry("centroids", "routing/centroids.parquet", "routing.schemas:CENTROIDS",
          "one row an expert: its router row against the mean of what it is chosen for"),
    Entry("centroids_layers", "routing/centroids_layers.parquet",
          "routing.schemas:CENTROIDS_LAYERS", "one row a router: whether its rows are centroids"),
    Entry("saturation", "routing/saturation.parquet", "routing.schemas:SATURATION",
          "one row a kept checkpoint, router and k: how much is decided as in the end"),
    Entry("effects", f"experts/{EACH}/effects.parquet", "experts.schemas:EFFECTS",
          "one row a feature and an expert: what the router does without the feature"),
    Entry("reads", f"experts/{EACH}/reads.parquet", "experts.schemas:READS",
          "one row a tested pair, feature → router → expert: who calls whom, and how sure"),
    Entry("agreement", f"experts/{EACH}/agreement.parquet", "experts.schemas:AGREEMENT",
          "one row an expert: whether the three kinds of evidence agree"),
    Entry("writes", f"experts/{EACH}/writes.parquet", "experts.schemas:WRITES",
          "one row a pair, expert → feature: who writes what, and what it brings"),
    Entry("shared", f"experts/{EACH}/shared.parquet", "experts.schemas:SHARED",
          "one row a document, token or feature: what the shared experts of a layer do there"),
    Entry("features", f"labels/{EACH}/features.parquet", "labels.schemas:FEATURES",
          "one row a feature that fires often enough: its description"),
    Entry("scores", f"labels/{EACH}/scores.parquet", "labels.schemas:SCORES",
          "one row a description and a scorer: how good it is"),
    Entry("experts", f"labels/{EACH}/experts.parquet", "labels.schemas:EXPERTS",
          "one row an expert of the mapped layers: its description"),
    Entry("expert_scores", f"labels/{EACH}/expert_scores.parquet", "labels.schemas:EXPERT_SCORES",
          "one row an expert and a predictor: how well its routing is told by the description"),
    Entry("prediction", f"prediction/{EACH}/scores.parquet", "prediction.schemas:SCORES",
          "one row a router and a predictor: how well routing is predicted"),
    Entry("justify_sums", "justify/evaluation/{weights}/{window}/{seed}/sums.parquet",
          "justify.sums:COLUMNS", "one row an endpoint, document and item of an evaluation"),
    Entry("justify_table", "justify/table.parquet", "justify.table:COLUMNS",
          "one row an arm and endpoint, of a width, window or layer"),
    Entry("trust_planted", "trust/planted.parquet", "trust.schemas:PLANTED",
          "one row a planted world, order and measure: what the map finds where truth is known"),
    Entry("trust_nulls", "trust/nulls.parquet", "trust.schemas:NULLS",
          "one row a null and statistic: what is found where nothing is to be found"),
    Entry("compare_load", "compare/load.parquet", "compare.schemas:LOAD",
          "one row an expert of a run"),
    Entry("compare_specialisation", "compare/specialisation.parquet",
          "compare.schemas:SPECIALISATION", "one row a run, measure and layer (or their mean)"),
    Entry("compare_maps", "compare/maps.parquet", "compare.schemas:MAPS",
          "one row a run, map and layer"),
    Entry("compare_dictionaries", "compare/dictionaries.parquet", "compare.schemas:DICTIONARIES",
          "one row a run, dictionary and window: how well it reconstructs"),
    Entry("compare_labels", "compare/labels.parquet", "compare.schemas:LABELS",
          "one row a run, dictionary, window and scorer: how good its descriptions are"),
    Entry("compare_recovery", "compare/recovery.parquet", "compare.schemas:RECOVERY",
          "one row a run, source, measure and layer: is found again what experts were made for"),
    Entry("compare_contrast", "compare/contrast.parquet", "compare.schemas:CONTRAST",
          "one row a measure and two runs, or two kinds of experts"),
)  # fmt: skip


class Schema(NamedTuple):
    """The columns of a table that this version writes."""

    entry: Entry
    package: str
    columns: Columns


def schemas() -> tuple[Schema, ...]:
    """Return every documented schema of the library: ENTRIES first, then the others by package.

    Entries whose schema this version does not have are left out; schemas in a `schemas.py` that no
    entry names are told under the name of their constant.
    """
    named = [(entry, _columns(entry.schema)) for entry in ENTRIES]
    found = [(entry, columns) for entry, columns in named if columns]
    others = [(entry, _columns(entry.schema)) for entry in _unnamed()]
    return tuple(Schema(e, e.schema.split(".")[0], columns) for e, columns in found + others)


def type_name(kind: pa.DataType) -> str:
    """Return what a column's values are: dictionaries only store them in another way."""
    return str(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _columns(schema: str) -> Columns | None:
    module, constant = schema.split(":")
    name = f"deepseemoe.{module}"
    try:
        return getattr(importlib.import_module(name), constant, None)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            return None
        raise


def _unnamed() -> Iterator[Entry]:
    """Yield an entry for each schema of a `schemas.py` that ENTRIES lacks."""
    known = {entry.schema for entry in ENTRIES}
    packages = (m.name for m in pkgutil.iter_modules(deepseemoe.__path__) if m.ispkg)
    for package in sorted(packages):
        try:
            module = importlib.import_module(f"deepseemoe.{package}.schemas")
        except ModuleNotFoundError:
            continue
        for constant, value in vars(module).items():
            schema = f"{package}.schemas:{constant}"
            if _is_schema(value) and schema not in known:
                stem = constant.lower()
                yield Entry(stem, f"{package}/…/{stem}.parquet", schema, "")


def _is_schema(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], Column)
