"""The rows of `labels` and `dictionaries`: what a control run with random weights is held against.

Dictionaries of random transformers reconstruct well and their features can be described (Heap et
al. 2025, arXiv 2501.17727), so neither number says by itself that a feature means something.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deepseemoe.compare.finished import Finished, Map
from deepseemoe.runtime.files import read_json
from deepseemoe.runtime.tables import read_table

Row = dict[str, Any]
UNCLEAR = ("unclear", "failed")
"""Kinds of rows that say in words that there is no description."""


def dictionary_rows(run: Finished) -> Iterator[Row]:
    """Yield how well each dictionary of a run reconstructs; no numbers where its file is gone."""
    for one in run.maps:
        path = run.folder / "dictionary" / one.dictionary / one.window / "metrics.json"
        found = read_json(path) if path.is_file() else {}
        yield {
            "run": run.label,
            "dictionary": one.dictionary,
            "window": one.window,
            "fvu": found.get("fvu_mean"),
            **{name: found.get(name) for name in ("l0", "dead_fraction", "loss_recovered")},
            "reason": "" if found else "metrics.json is missing",
        }


def label_rows(run: Finished) -> Iterator[Row]:
    """Yield the typical score of the descriptions of each dictionary, a row for each scorer."""
    for one in run.maps:
        folder = run.folder / "labels" / one.dictionary / one.window
        features, scores = folder / "features.parquet", folder / "scores.parquet"
        if not features.is_file():
            yield _row(run, one, reason="features.parquet is missing")
            continue
        described = read_table(features)
        counts = {"n_features": len(described), "described_share": _described(described)}
        if not scores.is_file():
            yield _row(run, one, **counts, reason="scores.parquet is missing")
            continue
        table = read_table(scores)
        for scorer in sorted(pc.unique(table["scorer"]).to_pylist()):
            own = table.filter(pc.equal(table["scorer"], scorer))
            yield _row(run, one, **counts, scorer=scorer, **_typical(own))


def _row(run: Finished, one: Map, *, reason: str = "", **found: Any) -> Row:
    names = ("scorer", "n_features", "described_share", "n_scored", "balanced_accuracy", "lift")
    return {
        "run": run.label, "dictionary": one.dictionary, "window": one.window,
        **dict.fromkeys(names), **found, "reason": reason,
    }  # fmt: skip


def _described(features: pa.Table) -> float | None:
    """Return the share of rows that hold a description."""
    stands = pc.invert(pc.is_in(features["kind"], pa.array(UNCLEAR)))
    if "status" in features.column_names:
        stands = pc.and_(stands, pc.equal(features["status"], "labelled"))
    return pc.mean(stands.cast(pa.float64())).as_py()


def _typical(scores: pa.Table) -> Row:
    """Return medians over features, of those that have the number."""
    found: Row = {"n_scored": 0}
    for name in ("balanced_accuracy", "lift"):
        if name in scores.column_names:
            values = scores[name].to_numpy().astype(float)
            values = values[np.isfinite(values)]
            found[name] = float(np.median(values)) if values.size else None
            found["n_scored"] = max(found["n_scored"], values.size)
    return found
