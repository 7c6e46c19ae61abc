"""What the run found, in sentences; every number stands in a table of the run."""

from collections.abc import Sequence

import numpy as np

from deepseemoe.report.contexts import visible
from deepseemoe.report.domains import domain_finding
from deepseemoe.report.keynumbers import KeyNumbers
from deepseemoe.report.links import Link
from deepseemoe.report.load import load_finding
from deepseemoe.report.tables import MAX_Q, Table


def findings(
    numbers: Sequence[KeyNumbers], surest: Link | None, load: Table, domains: Table
) -> list[str]:
    """Return the sentences, the most important first."""
    told = [_map(numbers), _link(surest), _reconstruction(numbers), _labels(numbers)]
    told += [f"{load_finding(load)}.", f"{domain_finding(domains)}."]
    return [sentence for sentence in told if sentence]


def _map(numbers: Sequence[KeyNumbers]) -> str:
    n_tested, n_kept = sum(n.n_tested for n in numbers), sum(n.n_kept for n in numbers)
    if not n_tested:
        return "No pair of a feature and an expert was frequent enough to be tested."
    if not n_kept:
        return f"None of {n_tested:,} tested pairs of a feature and an expert is kept."
    return (
        f"{n_kept:,} of {n_tested:,} tested pairs of a feature and an expert are kept at "
        f"q < {MAX_Q:g} ({n_kept / n_tested:.0%}); {sum(n.n_called for n in numbers):,} features "
        "call at least one expert."
    )


def _link(link: Link | None) -> str:
    if link is None:
        return ""
    return (
        f"The surest link is {visible(link.label)} → {link.expert}: the expert is chosen on "
        f"{link.p_e_given_f:.0%} of the feature’s tokens and on {link.p_e:.0%} of all "
        f"(log odds ratio {link.lor:.2f} [{link.lor_lo:.2f}, {link.lor_hi:.2f}])."
    )


def _reconstruction(numbers: Sequence[KeyNumbers]) -> str:
    text = f"The dictionaries leave {_span([n.fvu for n in numbers])} of the variance unexplained"
    agreement = [n.router_agreement for n in numbers if np.isfinite(n.router_agreement)]
    if agreement:
        text += f", and their reconstructions keep {_span(agreement)} of the routers’ choices"
    return text + "."


def _labels(numbers: Sequence[KeyNumbers]) -> str:
    values = [n.accuracy for n in numbers if np.isfinite(n.accuracy)]
    if not values:
        return "No label was scored."
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    span = low if low == high else f"{low} to {high}"
    return f"The median label has a balanced accuracy of {span} on new documents; 0.5 is chance."


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1%}", f"{max(values):.1%}"
    return low if low == high else f"{low} to {high}"
