"""What the tables of a run are called in SQL, where they stand, and what one row is.

A table that is not named here is found all the same: its view is called after its file, and its
columns explain themselves (`runtime.tables.write_table` keeps their meaning in the file).
"""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import NamedTuple

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
    Entry("load", "routing/load.parquet", "routing.schemas:LOAD",
          "one row a routed expert: how many tokens choose it"),
    Entry("coactivation", "routing/coactivation.parquet", "routing.schemas:COACTIVATION",
          "one row an ordered pair of experts of a layer"),
    Entry("vocabulary", "routing/vocabulary.parquet", "routing.schemas:VOCABULARY",
          "one row an expert and a token that chooses it"),
    Entry("domains", "routing/domains.parquet", "routing.schemas:DOMAINS",
          "one row an expert and a domain of documents"),
    Entry("effects", f"experts/{EACH}/effects.parquet", "experts.schemas:EFFECTS",
          "one row a feature and an expert: what the router does without the feature"),
    Entry("reads", f"experts/{EACH}/reads.parquet", "experts.schemas:READS",
          "one row a tested pair, feature → router → expert: who calls whom, and how sure"),
    Entry("agreement", f"experts/{EACH}/agreement.parquet", "experts.schemas:AGREEMENT",
          "one row an expert: whether the three kinds of evidence agree"),
    Entry("writes", f"experts/{EACH}/writes.parquet", "experts.schemas:WRITES",
          "one row a pair, expert → feature: who writes what, and what it brings"),
    Entry("features", f"labels/{EACH}/features.parquet", "labels.schemas:FEATURES",
          "one row a feature that fires often enough: its description"),
    Entry("scores", f"labels/{EACH}/scores.parquet", "labels.schemas:SCORES",
          "one row a description and a scorer: how good it is"),
    Entry("experts", f"labels/{EACH}/experts.parquet", "labels.schemas:EXPERTS",
          "one row an expert of the mapped layers: its description"),
    Entry("prediction", f"prediction/{EACH}/scores.parquet", "prediction.schemas:SCORES",
          "one row a router and a predictor: how well routing is predicted"),
    Entry("justify_sums", "justify/evaluation/{weights}/{window}/{seed}/sums.parquet",
          "justify.sums:COLUMNS", "one row an endpoint, document and item of an evaluation"),
    Entry("justify_table", "justify/table.parquet", "justify.table:COLUMNS",
          "one row an arm and endpoint, of a width, window or layer"),
    Entry("compare_load", "compare/load.parquet", "compare.schemas:LOAD",
          "one row an expert of a run"),
    Entry("compare_specialisation", "compare/specialisation.parquet",
          "compare.schemas:SPECIALISATION", "one row a run, measure and layer (or their mean)"),
    Entry("compare_maps", "compare/maps.parquet", "compare.schemas:MAPS",
          "one row a run, map and layer"),
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
