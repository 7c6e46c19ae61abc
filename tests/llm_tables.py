"""The planted text of llm_texts as tables, and whole labelling of it by a server."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from llm_texts import N_FEATURES, density_rows, example_rows, make_text

from deepseemoe.config import LabelsConfig
from deepseemoe.features.halves import is_explaining
from deepseemoe.features.schemas import DENSITY, EXAMPLES
from deepseemoe.labels.features import label_features
from deepseemoe.runtime.tables import write_table

KEY_NAME, KEY = "DEEPSEEMOE_TEST_KEY", "sk-not-for-anyones-eyes-0123456789"


class Tables(NamedTuple):
    """Where the tables of stage `features` are."""

    density: Path
    examples: Path


class Labels(NamedTuple):
    """What labelling wrote: rows as plain data, and the folder."""

    features: dict[int, dict]
    scores: list[dict]
    folder: Path

    def mean(self, scorer, *, features=range(N_FEATURES), column="balanced_accuracy"):
        """Return the mean of a column over features that have it."""
        found = [
            row[column]
            for row in self.scores
            if row["scorer"] == scorer and row["feature"] in features and row[column] is not None
        ]
        return float(np.mean(found))

    def bytes(self):
        return {p.name: p.read_bytes() for p in sorted(self.folder.iterdir()) if p.is_file()}


def write_tables(folder, **text):
    """Write the tables of a planted text; `text` goes to make_text."""
    made = make_text(**text)
    tables = Tables(folder / "density.parquet", folder / "examples.parquet")
    write_table(tables.density, DENSITY, density_rows(made), {})
    write_table(tables.examples, EXAMPLES, example_rows(made, is_explaining), {})
    return tables


def label(url, tables, folder, **changes):
    """Label the features of tables by a server; `changes` are keys of the configuration."""
    os.environ.setdefault(KEY_NAME, KEY)
    defaults = {"labeller": "openai", "base_url": url, "model": "tester", "api_key_env": KEY_NAME}
    few = {"per_prompt": 10, "null_features": 0, "max_retries": 2, "timeout_seconds": 20.0}
    features, scores = folder / "features.parquet", folder / "scores.parquet"
    label_features(
        LabelsConfig(**{**defaults, **few, **changes}),
        shards=[],
        documents=folder / "no documents are needed",
        tokenizer=folder / "nor a tokenizer",
        density=tables.density,
        examples=tables.examples,
        features=features,
        scores=scores,
        bill=folder / "bill.json",
        answers=folder / "answers",
        seed=0,
    )
    rows = {row["feature"]: row for row in pq.read_table(features).to_pylist()}
    return Labels(rows, pq.read_table(scores).to_pylist(), folder)


if __name__ == "__main__":  # a process of its own, to be killed: url, tables, folder
    import ast
    import sys

    url, source, target, changes = sys.argv[1:]
    source = Path(source)
    tables = Tables(source / "density.parquet", source / "examples.parquet")
    label(url, tables, Path(target), **ast.literal_eval(changes))
