"""The stage: read finished runs, write their tables side by side."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deepseemoe.compare.contrast import contrast_rows
from deepseemoe.compare.domains import recovery_rows
from deepseemoe.compare.finished import Finished, read_runs
from deepseemoe.compare.labels import dictionary_rows, label_rows
from deepseemoe.compare.layers import read_domains, read_routers
from deepseemoe.compare.maps import load_rows, map_rows
from deepseemoe.compare.schemas import (
    CONTRAST,
    DICTIONARIES,
    LABELS,
    LOAD,
    MAPS,
    RECOVERY,
    SPECIALISATION,
)
from deepseemoe.compare.specialisation import specialisation_rows
from deepseemoe.config.compare import CompareConfig
from deepseemoe.runtime.files import write_json
from deepseemoe.runtime.tables import Columns, digest, write_table

logger = logging.getLogger(__name__)


def compare_runs(config: CompareConfig, *, results: Path, folder: Path, seed: int) -> None:
    """Write the tables of `compare.schemas` and `runs.json` to `folder`.

    Nothing but tables of the runs in `results` is read. Raises ValueError in one line where a run
    is missing, not finished, or of another format.
    """
    runs = read_runs(config.entries, results)
    about = {"rule": "compare_runs", "config": digest(config.model_dump(mode="json")), "seed": seed}
    specialisation, recovery = [], []
    for run in runs:
        specialisation += specialisation_rows(run, n_draws=config.n_draws, seed=seed)
        options = {"n_draws": config.n_draws, "n_permutations": config.n_permutations}
        recovery += recovery_rows(run, **options, seed=seed)
        logger.info("%s: %d rows of specialisation", run.label, len(specialisation))
    tables: dict[str, tuple[Columns, list[dict[str, Any]]]] = {
        "load": (LOAD, [row for run in runs for row in load_rows(run)]),
        "specialisation": (SPECIALISATION, specialisation),
        "maps": (MAPS, [row for run in runs for row in map_rows(run)]),
        "dictionaries": (DICTIONARIES, [row for run in runs for row in dictionary_rows(run)]),
        "labels": (LABELS, [row for run in runs for row in label_rows(run)]),
        "recovery": (RECOVERY, recovery),
        "contrast": (CONTRAST, list(contrast_rows(runs, specialisation))),
    }
    for name, (columns, rows) in tables.items():
        write_table(folder / f"{name}.parquet", columns, rows, about)
    described = [_described(run) for run in runs]
    write_json(folder / "runs.json", {"runs": described, "notes": list(_notes(runs, described))})


def _described(run: Finished) -> dict[str, Any]:
    """Return what a run is, as far as its numbers hang on it."""
    routers = read_routers(run)
    domains = read_domains(run, routers)
    model = run.config["model"]
    return {
        "run": run.label,
        "folder": str(run.folder),
        "model": (model.get("name") or model["source"])
        + " (random weights)" * bool(model.get("random_weights")),
        "experts": run.experts,
        "n_layers": len(routers),
        "n_experts": sorted({router.share_E.size for router in routers.values()}),
        "top_k": sorted({router.top_k for router in routers.values()}),
        "domains": sorted({name for one in domains.values() for name in one.names}),
        "dictionaries": list(run.config["dictionaries"]),
        "windows": list(run.config["windows"]),
    }


def _notes(runs: Sequence[Finished], described: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield what is not alike in the runs and no measure can take out."""
    if len({tuple(one["domains"]) for one in described}) > 1:
        yield (
            "The runs' documents have different domains, so domain_information and "
            "domain_divergence answer different questions; compare runs on the same corpus."
        )
    if len({tuple(one["dictionaries"]) for one in described}) > 1:
        yield "The runs have different dictionaries: feature_concentration is of their features."
    for run, one in zip(runs, described, strict=True):
        if not one["domains"]:
            yield f"{run.label} has no domain labels; measures of domains are missing for it."
