"""How much of the disk a run still takes, as it is known before it begins."""

import os
from pathlib import Path

from deepseemoe.config import RunConfig
from deepseemoe.plan.dictionaries import shapes_of
from deepseemoe.plan.disk import disk_figures
from deepseemoe.plan.network import read_network
from deepseemoe.plan.source import checkpoint_of


def bytes_to_come(run: RunConfig, folder: Path, free: float) -> float:
    """Return the bytes that a run writes at least, less those that stand in its `folder`.

    What stands there is counted only where all of it would be more than is `free`. Estimates are
    left out: a run that may fit is not refused.
    """
    network = read_network(checkpoint_of(run))
    figures = disk_figures(run, network, shapes_of(run, d_model=network.d_model))
    counted = [f.value for f in figures if not f.is_estimate and f.name != "a token, stored"]
    total = sum(counted)
    return total if total <= free else total - _bytes_in(folder)


def _bytes_in(folder: Path) -> int:
    found = (Path(where, name) for where, _, names in os.walk(folder) for name in names)
    return sum(path.lstat().st_size for path in found)
