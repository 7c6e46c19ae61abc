"""All evaluations of the experiment, and the quantities that are made of them.

The question is how many neighbours a layer needs. So the FVU of a width is the mean over layers of
the FVU of each in the window that is centred on it (at the ends, the outermost window; at even
widths, the window that reaches one layer further down), and no layer is judged at the edge of a
window while it could be inside. What is measured of routers and of the whole model is averaged over
all windows, every router with the same weight.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deepseemoe.justify.intervals import Ratios
from deepseemoe.justify.plan import width_of
from deepseemoe.justify.sums import COLUMNS, MODEL, Key, read_sums
from deepseemoe.names import Window
from deepseemoe.runtime.files import read_json

LOWER_IS_BETTER = {"fvu": True, "loss_recovered": False, "router_agreement": False,
                   "routing_f1": False}  # fmt: skip
ENDPOINTS = tuple(LOWER_IS_BETTER)
READ, INSIDE, OUTSIDE, ALL = "read", "inside", "outside", "all"
"""Routers that read what the window wrote (its own but the first, and the next one), those of the
window's own layers, the next one, and all of these."""


class Evaluation(NamedTuple):
    """What one job found: sums by document, and metrics of each arm."""

    window: Window
    weights: str
    seed: int
    sums: Mapping[Key, NDArray[np.float64]]
    metrics: Mapping[str, Mapping[str, Any]]


def read_evaluation(folder: Path) -> Evaluation:
    """Return what `evaluate_window` wrote to a folder."""
    found = read_json(folder / "metrics.json")
    table = pq.read_table(folder / "sums.parquet")
    columns = {column.name: table[column.name].to_numpy() for column in COLUMNS}
    window = Window.parse(found["window"])
    return Evaluation(window, found["weights"], found["seed"], read_sums(columns), found["arms"])


class Evidence:
    """All evaluations, by weights, window and seed."""

    def __init__(self, evaluations: Iterable[Evaluation]) -> None:
        self.evaluations = list(evaluations)
        trained = {e.window for e in self.evaluations if e.weights == "trained"}
        self.windows = sorted(trained, key=lambda window: (width_of(window), window))
        self.widths = sorted({width_of(window) for window in self.windows})

    def of_width(self, width: int) -> list[Window]:
        """Return the windows of a width, in order of layers."""
        return [window for window in self.windows if width_of(window) == width]

    def seeds(self, arm: str, window: Window) -> set[int]:
        """Return the seeds on which an arm of a window was evaluated."""
        return {e.seed for e in self._with(arm, window)}

    def _with(self, arm: str, window: Window) -> list[Evaluation]:
        return [e for e in self.evaluations if e.window == window and arm in e.metrics]

    def ratios(
        self, arm: str, endpoint: str, windows: Sequence[Window], *, routers: str = READ,
        seeds: Sequence[int], source: str | None = None,
    ) -> Ratios | None:  # fmt: skip
        """Return the mean of an endpoint over windows on the given seeds; None where none has it.

        `source` is the arm in whose evaluations a baseline (`unigram`, …) is looked for.
        """
        found = [
            self._parts(arm, endpoint, window, routers=routers, seeds=seeds, source=source)
            for window in windows
        ]
        if endpoint == "fvu" and len(windows) > 1:
            found = [
                _at_home(parts, own, windows) for own, parts in zip(windows, found, strict=True)
            ]
        return _averaged(found) if any(found) else None

    def by_layer(
        self, arm: str, endpoint: str, window: Window, *, seeds: Sequence[int], source: str
    ) -> dict[int, Ratios]:
        """Return an endpoint at each layer or router of a window; the model as a whole is none."""
        parts = self._parts(arm, endpoint, window, routers=ALL, seeds=seeds, source=source)
        layers = sorted({key.layer for key in parts if key.layer != MODEL})
        return {
            layer: _averaged([{key: both for key, both in parts.items() if key.layer == layer}])
            for layer in layers
        }

    def _parts(
        self, arm: str, endpoint: str, window: Window, *, routers: str, seeds: Sequence[int],
        source: str | None,
    ) -> dict[Key, NDArray[np.float64]]:  # fmt: skip
        """Return the sums (S, 2, U) of each ratio of one window."""
        by_seed = {e.seed: e for e in self._with(source or arm, window)}
        if not set(seeds) <= set(by_seed):
            return {}
        wanted = [
            key
            for key in by_seed[seeds[0]].sums
            if (key.arm, key.endpoint) == (arm, endpoint) and _is_asked(key, window, routers)
        ]
        return {key: np.stack([by_seed[seed].sums[key] for seed in seeds]) for key in wanted}


def home_of(layer: int, windows: Sequence[Window]) -> Window:
    """Return the window whose centre is nearest to a layer, the lower one of two."""
    return min(windows, key=lambda window: (abs(window.first + window.last - 2 * layer), window))


def _at_home(
    parts: Mapping[Key, NDArray[np.float64]], own: Window, windows: Sequence[Window]
) -> dict[Key, NDArray[np.float64]]:
    """Return the sums of the layers whose home is the window `own`."""
    return {key: both for key, both in parts.items() if home_of(key.layer, windows) == own}


def _averaged(windows: Sequence[Mapping[Key, NDArray[np.float64]]]) -> Ratios:
    """Return the mean of ratios over layers, over windows within one, over items within those."""
    covered = Counter(layer for found in windows for layer in {key.layer for key in found})
    sums, weights = [], []
    for found in windows:
        n_items = Counter(key.layer for key in found)
        for key, both_S2U in found.items():
            sums.append(both_S2U)
            weights.append(1 / (len(covered) * covered[key.layer] * n_items[key.layer]))
    both_PS2U = np.stack(sums)
    numerators, denominators = (both_PS2U[:, :, i].swapaxes(0, 1) for i in (0, 1))
    return Ratios(numerators, denominators, np.array(weights))


def _is_asked(key: Key, window: Window, routers: str) -> bool:
    """Return whether the sums of a router are among those asked for; all of other layers are."""
    if key.endpoint != "routing_f1" or routers == ALL:
        return True
    inside = window.first <= key.layer <= window.last
    return {READ: key.layer > window.first, INSIDE: inside, OUTSIDE: not inside}[routers]
