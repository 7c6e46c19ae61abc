"""The rules that choose a width and rank windows, fixed before anything is trained.

Width. The gain of a width is what crosscoders of it have over separate SAEs with equal features and
equal L0 (so that of width 1 is 0). The smallest width whose gain is within one standard error of
the largest is chosen, with the standard error of the paired difference of the two. Where the curve
is a straight line it singles out no width (Anthropic's crosscoders found just that): then compute
decides, and the smallest width with a gain is the cheapest.

Layers. Windows of the chosen width are ranked by how much better their features predict the routers
that read them than the best of unigram, bigram and principal components, where FVU allows.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from deepseemoe.config import JustifyConfig
from deepseemoe.justify.evidence import LOWER_IS_BETTER, READ, Evidence
from deepseemoe.justify.intervals import Estimate, Ratios, estimate, minus, quantity_S
from deepseemoe.justify.plan import CROSSCODER
from deepseemoe.justify.probes import BASELINES
from deepseemoe.names import Window

REFERENCE = "features-l0"
LINE_SHARE = 0.1
"""A curve is a straight line where no width is further from it than this share of its range."""


class WidthChoice(NamedTuple):
    """The chosen width, the width of the largest gain, and what they rest on."""

    width: int
    best: int
    is_linear: bool
    gains: dict[int, Estimate]
    """of each width, over separate SAEs with equal features and L0; above 0 is better"""
    marginal: dict[int, Estimate]
    """of each width over the one before it, for each added layer"""


def gain_ratios(evidence: Evidence, config: JustifyConfig, width: int) -> Ratios:
    """Return the gain of a width on the endpoint, above 0 where the crosscoder is better."""
    windows, seeds = evidence.of_width(width), config.seeds
    own = evidence.ratios(CROSSCODER, config.endpoint, windows, seeds=seeds)
    arm = CROSSCODER if width == 1 else REFERENCE
    other = evidence.ratios(arm, config.endpoint, windows, seeds=seeds)
    if own is None or other is None:
        raise ValueError(
            f"no {config.endpoint} at width {width}; the model has no router behind its windows"
        )
    return minus(other, own) if LOWER_IS_BETTER[config.endpoint] else minus(own, other)


def choose_width(evidence: Evidence, config: JustifyConfig) -> WidthChoice:
    """Return the width that the rules choose."""
    curve = {width: gain_ratios(evidence, config, width) for width in evidence.widths}
    return choose_of(curve, n_bootstrap=config.n_bootstrap, confidence=config.confidence)


def choose_of(
    curve: Mapping[int, Ratios], *, n_bootstrap: int = 1000, confidence: float = 0.95
) -> WidthChoice:
    """Return the width that the rules choose from the gain of each."""
    options = {"n_bootstrap": n_bootstrap, "confidence": confidence}
    gains = {width: estimate(ratios, **options) for width, ratios in curve.items()}
    best = max(gains, key=lambda width: (gains[width].value, -width))
    behind = {width: estimate(minus(curve[best], curve[width]), **options) for width in curve}
    near = [width for width in curve if behind[width].value <= behind[width].standard_error]
    line = is_line({width: gain.value for width, gain in gains.items()})
    gained = [width for width in curve if width > 1 and gains[width].is_positive]
    is_linear = line and gains[best].is_positive
    widths = sorted(curve)
    marginal = {
        width: _each(estimate(minus(curve[width], curve[before]), **options), width - before)
        for before, width in zip(widths, widths[1:], strict=False)
    }
    chosen = min(gained) if is_linear else min(near)
    return WidthChoice(chosen, best, is_linear, gains, marginal)


def is_line(gains: Mapping[int, float]) -> bool:
    """Return whether gains lie on a straight line over width; three points at least can tell."""
    widths, values = np.array(list(gains)), np.array(list(gains.values()))
    if len(widths) < 3 or np.ptp(values) == 0:
        return False
    off = values - np.polyval(np.polyfit(widths, values, 1), widths)
    return bool(np.abs(off).max() <= LINE_SHARE * np.ptp(values))


def _each(total: Estimate, n: int) -> Estimate:
    """Return an estimate for one of `n` equal steps."""
    parts = (part / n for part in total[:4])
    return Estimate(*parts, total.n_seeds, total.n_units)


class RankedWindow(NamedTuple):
    """How well a window's features predict routing, beside the best that is no dictionary."""

    window: Window
    macro_f1: float
    baseline: str
    baseline_f1: float
    gain: Estimate
    fvu: float
    is_eligible: bool


def rank_windows(
    evidence: Evidence, config: JustifyConfig, windows: Sequence[Window]
) -> list[RankedWindow]:
    """Return windows with a router behind them, the best first; those of too high FVU last."""
    ranked = [_ranked(evidence, config, window) for window in windows]
    found = [one for one in ranked if one is not None]
    return sorted(found, key=lambda one: (not one.is_eligible, -one.gain.value))


def _ranked(evidence: Evidence, config: JustifyConfig, window: Window) -> RankedWindow | None:
    def ratios(arm: str, endpoint: str = "routing_f1") -> Ratios | None:
        return evidence.ratios(
            arm, endpoint, [window], routers=READ, seeds=config.seeds, source=CROSSCODER
        )

    own = ratios(CROSSCODER)
    if own is None:
        return None
    levels = {name: ratios(name) for name in BASELINES}
    values = {name: float(quantity_S(one).mean()) for name, one in levels.items() if one}
    baseline = max(values, key=values.__getitem__)
    fvu = float(quantity_S(ratios(CROSSCODER, "fvu")).mean())
    gain = estimate(
        minus(own, levels[baseline]), n_bootstrap=config.n_bootstrap, confidence=config.confidence
    )
    f1 = float(quantity_S(own).mean())
    return RankedWindow(window, f1, baseline, values[baseline], gain, fvu, fvu <= config.max_fvu)
