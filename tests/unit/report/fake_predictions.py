"""Scores of predicted routing as a run would write them, for one dictionary and window."""

import numpy as np

from deepseemoe.prediction.schemas import SCORES
from deepseemoe.runtime.tables import write_table

SKILL = {"base": 0.0, "unigram": 0.4, "bigram": 0.46, "features": 0.72, "neurons": 0.8,
         "pca": 0.55, "random": 0.62, "unigram+own": 0.71}  # fmt: skip


def write_predictions(folder, rng, layers):
    rows = [row(rng, layer, name, skill) for layer in layers for name, skill in SKILL.items()]
    each = [one | {"expert": 0, "n_experts": 1} for one in rows]
    write_table(folder / "scores.parquet", SCORES, rows + each, {})


def row(rng, layer, name, skill):
    made = dict.fromkeys(column.name for column in SCORES)
    f1, bits = 0.25 + 0.75 * skill + rng.normal(0, 0.01), 0.8 * skill + rng.normal(0, 0.01)
    for key, value in (("f1", f1), ("bits", bits)):
        made |= {key: value, f"{key}_lo": value - 0.03, f"{key}_hi": value + 0.03}
    known = {"layer": layer, "predictor": name, "sees_later": False, "f1_chance": 0.25}
    return made | known | {"bits_base": 0.8, "n_experts": 8, "reason": ""}


def no_scores(layers):
    """Return the columns of a table whose run had too few documents."""
    names = [column.name for column in SCORES]
    found = {name: np.full(len(layers), np.nan) for name in names}
    return found | {"layer": np.array(layers), "predictor": np.array(["features"] * len(layers))}
