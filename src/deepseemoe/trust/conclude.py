"""The certificate as one table and a few sentences: what was found, and what may be believed."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepseemoe.runtime.files import write_json
from deepseemoe.runtime.tables import read_table, write_table
from deepseemoe.trust.claims import AGREEMENT, Claim, null_claims, planted_claims
from deepseemoe.trust.schemas import NULLS


def conclude_trust(
    *, planted: Path, parts: Sequence[Path], nulls: Path, summary: Path, run: str
) -> None:
    """Write the table of all nulls, and the summary: claims, sentences, verdict.

    `parts` are the tables of nulls, of planted worlds and of the run's own data.
    """
    worlds = read_table(planted).to_pylist()
    rows = [row for part in parts for row in read_table(part).to_pylist()]
    write_table(nulls, NULLS, rows, {"rule": "conclude_trust", "run": run})
    claims = [*planted_claims(worlds), *null_claims(rows)]
    told = {
        "run": run,
        "verdict": verdict(claims),
        "sentences": [*sentences(claims)],
        "claims": [_plain(claim) for claim in claims],
    }
    write_json(summary, told)


def verdict(claims: Sequence[Claim]) -> str:
    """Return what may be believed, in a few words."""
    missed = [claim for claim in claims if claim.met is False]
    if not missed:
        return "the maps keep what they claim, where the truth is known and where there is none"
    named = "; ".join(f"{claim.what} ({claim.about})" for claim in missed[:4])
    more = f" and {len(missed) - 4} more" if len(missed) > 4 else ""
    n_asked = sum(claim.met is not None for claim in claims)
    return f"{len(missed)} of {n_asked} targets are missed: {named}{more}"


def sentences(claims: Sequence[Claim]) -> Iterator[str]:
    """Yield what was found, in plain words, with figures; nothing of what was not asked for."""
    yield from _of_worlds(claims)
    yield from _of_tiers(claims)
    yield from _of_nulls(claims)
    yield from _of_run(claims)


def _of_worlds(claims: Sequence[Claim]) -> Iterator[str]:
    found = {(claim.about, claim.what): claim.value for claim in claims}
    worlds = [about for about, what in found if what == "ap"]
    if worlds:
        told = "; ".join(
            f"{about}: AUROC {found[about, 'auroc']:.3f}, AP {found[about, 'ap']:.3f}"
            for about in worlds
        )
        yield f"In planted worlds the map's order finds the causes ({told})."
    peers = [claim for claim in claims if " over " in claim.what]
    if peers:
        n_met = sum(bool(claim.met) for claim in peers)
        yield (
            f"It beats risk difference, rho, cosine and P(expert | feature) in {n_met} of "
            f"{len(peers)} paired comparisons (95 % intervals over worlds)."
        )


def _of_tiers(claims: Sequence[Claim]) -> Iterator[str]:
    for tier in "AC":
        precise = _values(claims, f"precision_tier_{tier}")
        idle = _values(claims, f"no_cause_tier_{tier}")
        if precise:
            yield (
                f"Of pairs of tier {tier} {_percent(precise)} are causes (a tenth of the feature's "
                f"tokens or more), {_percent(idle)} merely go together."
            )
    recall, false = (
        _values(claims, "token_recall_features"),
        _values(claims, "token_false_true_pairs"),
    )
    if recall:
        yield (
            f"The token flag marks {_percent(recall)} of features that are functions of the token, "
            f"and {_percent(false)} of the causes of features that are not."
        )


def _of_nulls(claims: Sequence[Claim]) -> Iterator[str]:
    for source, text in (("planted", "generated nulls"), ("run", "the run's own documents, cut")):
        times = [
            claim.value / (claim.target / 1.5)
            for claim in claims
            if claim.about.startswith(f"{source}:") and claim.target
        ]
        if times:
            yield (
                f"Where nothing is to be found ({text}), p_perm finds "
                f"{min(times):.2f} to {max(times):.2f} times its nominal rate."
            )


def _of_run(claims: Sequence[Claim]) -> Iterator[str]:
    def of_null(null: str, what: str) -> list[float]:
        start = f"run: {null}"
        return [
            c.value
            for c in claims
            if c.what.startswith(what) and (c.about == start or c.about.startswith(start + " "))
        ]

    own = of_null("none", AGREEMENT)
    for null, text in (("layers", "another layer's routing"), ("weights", "random weights")):
        cut = of_null(null, AGREEMENT)
        if own and cut and not np.isnan([*own, *cut]).all():
            yield (
                f"Counts and weights agree by {_range(own)} (rank correlation) in the maps, by "
                f"{_range(cut)} with {text}."
            )
    labels, shuffled = of_null("none", "domain"), of_null("labels", "domain")
    if labels and shuffled:
        yield (
            f"{_percent(labels)} of intervals of domain shares miss the expert's overall share, "
            f"{_percent(shuffled)} with shuffled labels."
        )


def _values(claims: Sequence[Claim], what: str) -> list[float]:
    return [claim.value for claim in claims if claim.what == what and not math.isnan(claim.value)]


def _percent(values: Sequence[float]) -> str:
    low, high = round(100 * min(values)), round(100 * max(values))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _range(values: Sequence[float]) -> str:
    low, high = f"{np.nanmin(values):.2f}", f"{np.nanmax(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _plain(claim: Claim) -> dict[str, Any]:
    """Return a claim for JSON, which has no NaN."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in claim._asdict().items()
    }
