"""The one table of the experiment: every arm on every endpoint, for widths, windows and layers.

A row of a whole width has no window, a row of a mean over layers has no layer.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from deepseemoe.config import JustifyConfig
from deepseemoe.justify.evidence import ENDPOINTS, INSIDE, OUTSIDE, READ, Evidence
from deepseemoe.justify.intervals import Estimate, Ratios, estimate, minus
from deepseemoe.justify.plan import CROSSCODER, seeds_of, width_of
from deepseemoe.justify.probes import BASELINES
from deepseemoe.names import Window
from deepseemoe.runtime.tables import Column

COLUMNS = (
    Column("width", pa.int64(), "layers", "layers of the windows"),
    Column("window", pa.string(), "", "the window; empty: all of this width"),
    Column("arm", pa.string(), "", "crosscoder, what it is compared with, or a baseline"),
    Column("endpoint", pa.string(), "", "what was measured; docs/justify.md defines each"),
    Column("layer", pa.int64(), "layer", "layer, or router's layer; empty: mean over them"),
    Column("value", pa.float64(), "", "mean over seeds"),
    Column("lo", pa.float64(), "", "lower end of its interval over documents and seeds"),
    Column("hi", pa.float64(), "", "upper end"),
    Column("difference", pa.float64(), "", "crosscoder minus arm, on the same documents and seeds"),
    Column("difference_lo", pa.float64(), "", "lower end of its interval"),
    Column("difference_hi", pa.float64(), "", "upper end"),
    Column("n_seeds", pa.int64(), "seeds", "trainings that the value is a mean of"),
    Column("n_units", pa.int64(), "documents", "documents (or groups of them) of the interval"),
)
METRICS = (
    "l0", "pairs", "n_features", "n_parameters", "encoder_mflops", "dead_fraction",
    "duplicates_per_1k", "functional_layers", "decoder_layers",
)  # fmt: skip
STABILITY = "seed_stability"
ROUTERS = {"routing_f1": READ, "routing_f1_inside": INSIDE, "routing_f1_outside": OUTSIDE}

Stability = dict[Window, dict[str, float | None]]


def table_rows(
    evidence: Evidence, config: JustifyConfig, stability: Stability
) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table."""
    for width in evidence.widths:
        windows = evidence.of_width(width)
        yield from _endpoint_rows(evidence, config, width, windows)
        yield from _metric_rows(evidence, width, windows, stability)
        for window in windows:
            own = {"window": str(window)}
            for row in _endpoint_rows(evidence, config, width, [window]):
                yield row | own
            for row in _metric_rows(evidence, width, [window], stability):
                yield row | own
            for row in _layer_rows(evidence, config, window):
                yield row | own


def _endpoint_rows(
    evidence: Evidence, config: JustifyConfig, width: int, windows: Sequence[Window]
) -> Iterator[dict[str, Any]]:
    for arm, source in _arms(evidence, windows):
        seeds = seeds_of(config, source)
        for name in (*ENDPOINTS, *list(ROUTERS)[1:]):
            endpoint, routers = _asked(name)
            own, other = (
                evidence.ratios(
                    one, endpoint, windows, routers=routers, seeds=seeds, source=where
                )
                for one, where in ((arm, source), (CROSSCODER, CROSSCODER))
            )  # fmt: skip
            if own is None:
                continue
            is_paired = arm != CROSSCODER and source != "random" and other is not None
            row = _row(width, arm, name)
            yield row | _numbers(config, own, minus(other, own) if is_paired else None)


def _layer_rows(
    evidence: Evidence, config: JustifyConfig, window: Window
) -> Iterator[dict[str, Any]]:
    """Yield a row for each layer and router of a window."""
    for arm, source in _arms(evidence, [window]):
        seeds = seeds_of(config, source)
        for endpoint in ENDPOINTS:
            by_layer = evidence.by_layer(arm, endpoint, window, seeds=seeds, source=source)
            for layer, ratios in by_layer.items():
                row = _row(width_of(window), arm, endpoint)
                yield row | {"layer": layer} | _numbers(config, ratios, None)


def _arms(evidence: Evidence, windows: Sequence[Window]) -> list[tuple[str, str]]:
    """Return each arm and baseline, and the arm in whose evaluations it is found."""
    arms = dict.fromkeys(
        arm for e in evidence.evaluations if e.window in windows for arm in e.metrics
    )
    return [*((arm, arm) for arm in arms), *((name, CROSSCODER) for name in BASELINES)]


def _asked(name: str) -> tuple[str, str]:
    """Return the endpoint that a row's name stands for, and the routers it is of."""
    return ("routing_f1", ROUTERS[name]) if name in ROUTERS else (name, READ)


def _metric_rows(
    evidence: Evidence, width: int, windows: Sequence[Window], stability: Stability
) -> Iterator[dict[str, Any]]:
    """Yield the means over windows and seeds of what has no interval."""
    evaluated = [e for e in evidence.evaluations if e.window in windows]
    for arm in dict.fromkeys(arm for e in evaluated for arm in e.metrics):
        own = [e.metrics[arm] for e in evaluated if arm in e.metrics]
        for name in METRICS:
            values = [metrics[name] for metrics in own if metrics[name] is not None]
            if values:
                seeds = {e.seed for e in evaluated if arm in e.metrics}
                yield _row(width, arm, name) | {
                    "value": float(np.mean(values)),
                    "n_seeds": len(seeds),
                }
        found = [stability.get(window, {}).get(arm) for window in windows]
        if all(value is not None for value in found):
            yield _row(width, arm, STABILITY) | {"value": float(np.mean(found))}


def _row(width: int, arm: str, endpoint: str) -> dict[str, Any]:
    row = dict.fromkeys(column.name for column in COLUMNS)
    return row | {"width": width, "arm": arm, "endpoint": endpoint}


def _numbers(
    config: JustifyConfig, own: Ratios | None, difference: Ratios | None
) -> dict[str, Any]:
    """Return the columns of a value, and of its difference where there is one."""
    options = {"n_bootstrap": config.n_bootstrap, "confidence": config.confidence}
    found: Estimate = estimate(own, **options)
    row: dict[str, Any] = {
        "value": found.value, "lo": found.lo, "hi": found.hi,
        "n_seeds": found.n_seeds, "n_units": found.n_units,
    }  # fmt: skip
    if difference is not None:
        paired = estimate(difference, **options)
        row |= {
            "difference": paired.value,
            "difference_lo": paired.lo,
            "difference_hi": paired.hi,
        }
    return row
