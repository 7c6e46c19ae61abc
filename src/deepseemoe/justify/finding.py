"""What the experiment found, as plain data and as three sentences.

*Better* means: better on the endpoint than every arm of equal budgets, with an interval over
documents and seeds that excludes 0, and an advantage that is gone where layers are shuffled. What
is better than some arms and not than others is said to be just that.
"""

from typing import Any, NamedTuple

from deepseemoe.config import JustifyConfig
from deepseemoe.justify.choice import (
    REFERENCE,
    RankedWindow,
    WidthChoice,
    choose_width,
    rank_windows,
)
from deepseemoe.justify.evidence import LOWER_IS_BETTER, Evidence
from deepseemoe.justify.intervals import Estimate, estimate, minus, quantity_S
from deepseemoe.justify.plan import CROSSCODER, SEPARATE, seeds_of
from deepseemoe.justify.probes import BASELINES
from deepseemoe.justify.similarity import Similarity
from deepseemoe.names import Window

BETTER, MIXED, ARTEFACT, NO_BENEFIT = "better", "mixed", "artefact", "no benefit"


class Contrast(NamedTuple):
    """An arm's value, and how much better the crosscoder is than it (above 0 is better)."""

    arm: str
    value: float
    gain: Estimate


class Finding(NamedTuple):
    """All that was decided; `contrasts` are at `compared_width`, which is 2 at least."""

    endpoint: str
    verdict: str
    choice: WidthChoice
    compared_width: int
    crosscoder: float
    contrasts: list[Contrast]
    null_gain: Estimate | None
    """of the crosscoder of shuffled layers over separate SAEs; None where it was not measured"""
    ranked: list[RankedWindow]
    random_gain: Estimate | None
    """of the best ranked window in the model with random weights, over the best baseline there"""
    similarity: Similarity


def find(evidence: Evidence, config: JustifyConfig, similarity: Similarity) -> Finding:
    """Return what the evidence says; raise ValueError where all windows have one layer."""
    if max(evidence.widths) == 1:
        raise ValueError("all windows have one layer; add widths or layers to compare")
    choice = choose_width(evidence, config)
    wide = {width: gain for width, gain in choice.gains.items() if width > 1}
    compared = choice.width if choice.width > 1 else max(wide, key=lambda w: wide[w].value)
    windows = evidence.of_width(compared)
    own = evidence.ratios(CROSSCODER, config.endpoint, windows, seeds=config.seeds)
    contrasts = [
        contrast
        for arm in (*SEPARATE, "copy")
        if arm in config.arms and (contrast := _contrast(evidence, config, arm, windows))
    ]
    null = _null_gain(evidence, config, windows)
    ranked = rank_windows(evidence, config, _to_rank(evidence, choice.width))
    return Finding(
        endpoint=config.endpoint,
        verdict=verdict_of(contrasts, null),
        choice=choice,
        compared_width=compared,
        crosscoder=float(quantity_S(own).mean()),
        contrasts=contrasts,
        null_gain=null,
        ranked=ranked,
        random_gain=_random_gain(evidence, config, ranked),
        similarity=similarity,
    )


def _to_rank(evidence: Evidence, width: int) -> list[Window]:
    """Return the windows of a width, or single layers where there is one window only to rank."""
    own = evidence.of_width(width)
    return own if len(own) > 1 else evidence.of_width(1)


def verdict_of(contrasts: list[Contrast], null_gain: Estimate | None) -> str:
    """Return the verdict of the gains over all arms, and of the null's."""
    reference = next(c for c in contrasts if c.arm == REFERENCE)
    if not reference.gain.is_positive:
        return NO_BENEFIT
    if null_gain is not None and null_gain.is_positive:
        return ARTEFACT
    return BETTER if all(c.gain.is_positive for c in contrasts) else MIXED


def _contrast(
    evidence: Evidence, config: JustifyConfig, arm: str, windows: list[Window]
) -> Contrast | None:
    own, other = (
        evidence.ratios(one, config.endpoint, windows, seeds=config.seeds)
        for one in (CROSSCODER, arm)
    )
    if own is None or other is None:
        return None
    is_low = LOWER_IS_BETTER[config.endpoint]
    gain = minus(other, own) if is_low else minus(own, other)
    return Contrast(arm, float(quantity_S(other).mean()), _estimated(config, gain))


def _null_gain(evidence: Evidence, config: JustifyConfig, windows: list[Window]) -> Estimate | None:
    """Return what a crosscoder of shuffled layers gains over separate SAEs."""
    seeds = seeds_of(config, "shuffled")
    null, other = (
        evidence.ratios(arm, config.endpoint, windows, seeds=seeds)
        for arm in ("shuffled", REFERENCE)
    )
    if null is None or other is None:
        return None
    is_low = LOWER_IS_BETTER[config.endpoint]
    return _estimated(config, minus(other, null) if is_low else minus(null, other))


def _random_gain(
    evidence: Evidence, config: JustifyConfig, ranked: list[RankedWindow]
) -> Estimate | None:
    """Return the gain over the best baseline on the model with random weights."""
    if not ranked:
        return None
    options = {"seeds": seeds_of(config, "random"), "source": "random"}
    levels = [
        evidence.ratios(name, "routing_f1", [ranked[0].window], **options)
        for name in ("random", *BASELINES)
    ]
    own, *baselines = levels
    if own is None or None in baselines:
        return None
    best = max(baselines, key=lambda ratios: float(quantity_S(ratios).mean()))
    return _estimated(config, minus(own, best))


def _estimated(config: JustifyConfig, ratios: Any) -> Estimate:
    return estimate(ratios, n_bootstrap=config.n_bootstrap, confidence=config.confidence)
