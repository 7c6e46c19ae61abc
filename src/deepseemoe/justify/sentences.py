"""The three sentences: is a dictionary across layers better, how many layers, and which.

They say what was found, "no benefit" included, with the numbers and intervals that it rests on.
"""

from collections.abc import Sequence

from deepseemoe.justify.choice import REFERENCE, RankedWindow, WidthChoice
from deepseemoe.justify.finding import ARTEFACT, BETTER, NO_BENEFIT, Contrast, Finding
from deepseemoe.justify.intervals import Estimate
from deepseemoe.justify.plan import width_of

NAMES = {
    "fvu": "FVU",
    "loss_recovered": "loss recovered",
    "router_agreement": "router agreement",
    "routing_f1": "routing macro-F1",
}
ARMS = {
    "features-l0": "separate SAEs with equal features and equal L0",
    "features-pairs": "separate SAEs with equal features and equal (feature, layer) pairs",
    "cost-l0": "separate SAEs with equal parameters and FLOPs and equal L0",
    "cost-pairs": "separate SAEs with equal parameters, FLOPs and (feature, layer) pairs",
    "copy": "one SAE's features copied to every layer",
}
"""Long names, for sentences and pages."""


def sentences(finding: Finding) -> list[str]:
    """Return the three sentences, in the order: better at all, how many layers, which layers."""
    return [_verdict(finding), _width(finding), _layers(finding)]


def _verdict(finding: Finding) -> str:
    name, width = NAMES[finding.endpoint], finding.compared_width
    reference = next(c for c in finding.contrasts if c.arm == REFERENCE)
    level = f"{name} {_n(finding.crosscoder)} against {_n(reference.value)}"
    told = f"gain {interval(reference.gain)}"
    seeds = _seeds(reference.gain)
    if finding.verdict == NO_BENEFIT:
        return (
            f"No benefit: at {width} layers, where it does best, a crosscoder is not better than "
            f"{ARMS[REFERENCE]} ({level}; {told}{seeds})."
        )
    text = (
        f"At {width} layers a crosscoder is better than {ARMS[REFERENCE]} ({level}; {told}{seeds})"
    )
    if finding.verdict == ARTEFACT:
        return (
            f"{text}, but so is one of layers whose tokens are shuffled "
            f"({interval(finding.null_gain)}), so this is no evidence of features across layers."
        )
    return f"{text}, {_others(finding)}{_null(finding)}."


def _others(finding: Finding) -> str:
    """Return how the crosscoder compares with the other arms."""
    others = [c for c in finding.contrasts if c.arm != REFERENCE]
    if not others:
        return "the only arm that was tried"
    if finding.verdict == BETTER:
        return "and better than every other arm of equal budgets"
    won = [c for c in others if c.gain.is_positive]
    lost = [c for c in others if c.gain.is_negative]
    even = [c for c in others if c not in won and c not in lost]
    groups = (("better than", won), ("not told apart from", even), ("worse than", lost))
    return "but not than every arm: " + ", ".join(
        f"{word} {_arms(found)}" for word, found in groups if found
    )


def _arms(contrasts: Sequence[Contrast]) -> str:
    return " and ".join(f"{c.arm} ({interval(c.gain)})" for c in contrasts)


def _null(finding: Finding) -> str:
    if finding.null_gain is None:
        return ""
    return f"; with layers shuffled the advantage is gone ({interval(finding.null_gain)})"


def _width(finding: Finding) -> str:
    choice = finding.choice
    tried = ", ".join(map(str, choice.gains))
    text = f"Of windows of {tried} layers, {choice.width} is chosen: {_reason(choice)}"
    steps = ", ".join(
        f"{interval(gain)} for each layer up to {width}" for width, gain in choice.marginal.items()
    )
    prior = finding.similarity
    decay = (
        f"a CKA decay of {prior.decay_layers:.1f} layers"
        if prior.decay_layers is not None
        else "a CKA that does not decay"
    )
    return (
        f"{text}; added layers gain {steps}; the untrained prior, {decay}, was {prior.prior_width}."
    )


def _reason(choice: WidthChoice) -> str:
    gained = choice.gains[choice.best]
    if choice.is_linear:
        return (
            "the gain grows in a straight line and singles out no width, so compute decides, and "
            "this is the cheapest with a gain"
        )
    if choice.width == 1:
        if choice.best == 1:
            return "no wider window gains anything"
        told = f"the largest gain, {interval(gained)} at {choice.best} layers"
        return f"{told}, is within a standard error of none"
    if choice.width == choice.best:
        return f"it gains most ({interval(gained)}) and no smaller one is within a standard error"
    return (
        f"the smallest within a standard error of the largest gain ({interval(gained)} at "
        f"{choice.best})"
    )


def _layers(finding: Finding) -> str:
    eligible = [one for one in finding.ranked if one.is_eligible]
    if not eligible:
        if finding.ranked:
            return (
                "No window can be recommended: every one leaves more variance unexplained than "
                f"max_fvu (least {_n(min(one.fvu for one in finding.ranked))})."
            )
        return "No window can be ranked: none has a router behind it."
    best, *rest = eligible
    level = f"macro-F1 {best.macro_f1:.3f} against {best.baseline_f1:.3f} of {best.baseline}"
    tail = f"{_following(rest)}{_random(finding, best)}"
    if not best.gain.is_positive:
        return (
            f"No window's features predict the routers that read them better than what is no "
            f"dictionary: the best, {best.window}, has {level} ({interval(best.gain)}){tail}."
        )
    width = width_of(best.window)
    among = "single layers" if width == 1 else f"windows of {width} layers"
    return (
        f"Of {among}, features of {best.window} tell most about the routers that read them beyond "
        f"what is no dictionary ({level}, gain {interval(best.gain)}, FVU {_n(best.fvu)}){tail}."
    )


def _following(rest: Sequence[RankedWindow]) -> str:
    if not rest:
        return ""
    shown = ", ".join(f"{one.window} {interval(one.gain)}" for one in rest[:3])
    return f", then {shown}"


def _random(finding: Finding, best: RankedWindow) -> str:
    """Return what the same window shows in a model that learned nothing."""
    if finding.random_gain is None:
        return ""
    told = f"; in the model with random weights the gain there is {interval(finding.random_gain)}"
    is_as_good = finding.random_gain.hi >= best.gain.lo
    return told + ", no less, so it is no sign of what training put there" * is_as_good


def interval(estimate: Estimate | None) -> str:
    """Return `+0.0094 [+0.0088, +0.0100]`."""
    if estimate is None:
        return "not measured"
    value, lo, hi = (f"{number:+.{_digits(estimate)}f}" for number in estimate[:3])
    return f"{value} [{lo}, {hi}]"


def _digits(estimate: Estimate) -> int:
    """Return the digits that show two of the standard error, 2 to 5."""
    error = estimate.standard_error
    if error <= 0:
        return 4
    digits = 1
    while error < 10 and digits < 6:
        error, digits = error * 10, digits + 1
    return min(max(digits, 2), 5)


def _n(value: float) -> str:
    return f"{value:.4f}"


def _seeds(estimate: Estimate) -> str:
    if estimate.n_seeds == 1:
        return ", 1 seed, so nothing is known of others"
    return f", {estimate.n_seeds} seeds"
