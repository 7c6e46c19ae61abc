"""What a run says of its features, as other tools are told: what stands, and how it scored."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from deepseemoe.interop.run_folder import RunFolder
from deepseemoe.labels.asking.redact import MARKS, redact
from deepseemoe.runtime.tables import read_table

NO_LABEL = ("unclear", "failed")
"""Kinds of rows that say in words that there is no description."""

MEASURES = ("lift", "balanced_accuracy", "auroc", "correlation")
"""What is told of a score, the first that it has: lift over permuted descriptions; in runs without
that null, balanced accuracy; of embeddings and simulations, theirs."""


class Score(NamedTuple):
    """One score of a description."""

    scorer: str
    measure: str
    """One of MEASURES."""
    value: float
    row: dict[str, Any]


class Description(NamedTuple):
    """A feature, what is said of it, by whom, and how it was scored."""

    feature: int
    label: str
    kind: str
    labeller: str
    scores: tuple[Score, ...]


def descriptions(run: RunFolder) -> Iterator[Description]:
    """Yield the descriptions of a run, by feature; none where no feature was labelled yet.

    Only what the run calls labelled: features that were unclear, refused or left out are not there.
    """
    path = run.optional("labels", "features.parquet")
    if not path.is_file():
        return
    scores = _scores(run)
    for row in sorted(read_table(path).to_pylist(), key=lambda row: row["feature"]):
        if not _stands(row):
            continue
        label = "".join(redact([row["label"]], [0.0], tuple(MARKS))[0])
        own = scores.get(row["feature"], ())
        yield Description(row["feature"], label, row["kind"], row["labeller"], own)


def _stands(row: Mapping[str, Any]) -> bool:
    is_labelled = row.get("status", "labelled") == "labelled"  # older tables have no status
    return is_labelled and row["kind"] not in NO_LABEL and bool(row["label"])


def _scores(run: RunFolder) -> dict[int, tuple[Score, ...]]:
    path = run.optional("labels", "scores.parquet")
    found: dict[int, list[Score]] = {}
    for row in read_table(path).to_pylist() if path.is_file() else ():
        for measure in MEASURES:
            value = row.get(measure)
            if value is not None and math.isfinite(value):
                score = Score(row["scorer"], measure.replace("_", " "), value, row)
                found.setdefault(row["feature"], []).append(score)
                break
    return {feature: tuple(scores) for feature, scores in found.items()}
