"""All evaluations in; the table, what was decided, and the three sentences out."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepseemoe.config import JustifyConfig
from deepseemoe.justify.evidence import Evidence, read_evaluation
from deepseemoe.justify.finding import Finding, find
from deepseemoe.justify.intervals import Estimate
from deepseemoe.justify.sentences import sentences
from deepseemoe.justify.similarity import measure_similarity
from deepseemoe.justify.table import COLUMNS, Stability, table_rows
from deepseemoe.names import Window
from deepseemoe.runtime.files import read_json, write_json
from deepseemoe.runtime.tables import write_table

logger = logging.getLogger(__name__)


def compare_arms(
    config: JustifyConfig,
    *,
    layers: Window,
    evaluations: Sequence[Path],
    stability: Sequence[Path],
    select_stores: Sequence[Path],
    table: Path,
    finding: Path,
    run: str,
) -> Finding:
    """Write `table` (parquet) and `finding` (JSON), and return the latter.

    `evaluations` are folders that `evaluate_window` wrote, `stability` files of `measure_stability`
    whose names are their windows. Raises ValueError where there is nothing to compare.
    """
    evidence = Evidence(map(read_evaluation, evaluations))
    similarity = measure_similarity(layers, select_stores, max_tokens=config.probe_tokens)
    found = find(evidence, config, similarity)
    stable: Stability = {Window.parse(path.stem): read_json(path) for path in stability}
    described = {"run": run, "config": config.model_dump(mode="json")}
    rows = list(table_rows(evidence, config, stable))
    write_table(table, COLUMNS, rows, described)
    write_json(finding, plain(found))
    for sentence in sentences(found):
        logger.info("%s", sentence)
    return found


def plain(found: Finding) -> dict[str, Any]:
    """Return a finding as plain data, the sentences first."""
    choice = found.choice
    return {
        "sentences": sentences(found),
        "verdict": found.verdict,
        "endpoint": found.endpoint,
        "width": choice.width,
        "best_width": choice.best,
        "is_linear": choice.is_linear,
        "compared_width": found.compared_width,
        "crosscoder": found.crosscoder,
        "gains": {str(width): _plain(gain) for width, gain in choice.gains.items()},
        "marginal": {str(width): _plain(gain) for width, gain in choice.marginal.items()},
        "contrasts": [
            {"arm": one.arm, "value": one.value, "gain": _plain(one.gain)}
            for one in found.contrasts
        ],
        "null_gain": _plain(found.null_gain),
        "random_gain": _plain(found.random_gain),
        "ranked": [
            one._asdict() | {"window": str(one.window), "gain": _plain(one.gain)}
            for one in found.ranked
        ],
        "similarity": {
            "cka": found.similarity.cka_LL.tolist(),
            "decay_layers": found.similarity.decay_layers,
            "prior_width": found.similarity.prior_width,
        },
    }


def _plain(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in estimate._asdict().items()
    }
