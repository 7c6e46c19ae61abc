"""The planted half of the certificate: worlds of known truth and nulls, mapped by the same code."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepseemoe.config import ExpertsConfig, TrustConfig
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.tables import digest, write_table
from deepseemoe.trust.null_rates import null_rates
from deepseemoe.trust.nulls import NULLS as NULL_WORLDS
from deepseemoe.trust.planted import judge_world, planted_world
from deepseemoe.trust.reading import read_world
from deepseemoe.trust.schemas import NULLS, PLANTED

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def judge_worlds(
    config: TrustConfig, experts: ExpertsConfig, *, planted: Path, nulls: Path
) -> None:
    """Write how the map does in planted worlds, and what it finds in nulls.

    `experts` is the run's own configuration of the maps, so the certificate is of what it uses.
    """
    manifest = {
        "rule": "judge_worlds",
        "config": digest([one.model_dump(mode="json") for one in (config, experts)]),
    }
    write_table(planted, PLANTED, [*planted_rows(config, experts)], manifest)
    write_table(nulls, NULLS, [*null_rows(config, experts)], manifest)


def planted_rows(config: TrustConfig, experts: ExpertsConfig) -> Iterator[Row]:
    """Yield rows of `PLANTED`: every measure of every order in every world."""
    worlds = [(f, p, s) for f in config.families for p in config.presets for s in config.seeds]
    progress = Progress("planted worlds", len(worlds), unit="worlds")
    for family, preset, seed in worlds:
        judged = judge_world(planted_world(family, preset, seed), experts, seed=seed)
        common = {"family": family, "preset": preset, "seed": seed}
        for order, found in judged.orders.items():
            for measure, value in found._asdict().items():
                yield common | {"order": order, "measure": measure, "value": value}
        for measure, value in judged.told.items():
            yield common | {"order": "", "measure": measure, "value": float(value)}
        progress.advance(1)


def null_rows(config: TrustConfig, experts: ExpertsConfig) -> Iterator[Row]:
    """Yield rows of `NULLS` of the generated nulls."""
    progress = Progress("nulls", len(config.nulls) * len(config.seeds), unit="worlds")
    for name in config.nulls:
        for seed in config.seeds:
            reading = read_world(NULL_WORLDS[name](seed), experts, seed=seed)
            common = {"source": "planted", "null": name, "dictionary": "", "window": ""}
            for rate in null_rates(reading.rows, confidence=experts.confidence):
                yield common | {"seed": seed} | rate._asdict()
            progress.advance(1)
