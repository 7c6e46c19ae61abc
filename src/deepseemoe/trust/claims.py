"""What is claimed of the maps, with the figures behind each claim and whether they bear it out.

A claim about planted worlds rests on the mean over seeds, with a t interval. Comparisons are
paired: the difference is taken within each world. A claim about nulls rests on the pairs of all
seeds.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

PEERS = ("rd", "rho", "cosine", "p_e_given_f")
"""Orders of published tools: SteerMoE, RouterInterp, and two that many use."""

AGREEMENT = "agreement of counts and weights"
"""Spearman correlation of `lor` and `w_map` over tested pairs: 0 where they know nothing of each
other."""

LEAST = {
    ("realistic", "auroc"): 0.95,
    ("realistic", "ap"): 0.80,
    ("hard", "auroc"): 0.92,
    ("hard", "ap"): 0.70,
}
TOKEN_RECALL = 0.90
MOST_FALSE = 1.5
"""Times its nominal rate that p_perm may find what is not there."""


class Claim(NamedTuple):
    """One figure and its target; `met` is None where nothing was asked of it."""

    what: str
    about: str
    value: float
    lo: float
    hi: float
    target: float | None
    met: bool | None


Rows = Sequence[Mapping[str, Any]]


def planted_claims(rows: Rows) -> list[Claim]:
    """Return what holds in planted worlds, by family and preset, from rows of `PLANTED`."""
    worlds = dict.fromkeys((row["family"], row["preset"]) for row in rows)
    return [claim for world in worlds for claim in _claims_of(rows, *world)]


def _claims_of(rows: Rows, family: str, preset: str) -> Iterator[Claim]:
    values: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for row in rows:
        if (row["family"], row["preset"]) == (family, preset):
            values[row["order"], row["measure"]][row["seed"]] = row["value"]
    about = f"{family}, {preset}"
    for (order, measure), by_seed in values.items():
        if order in ("default", ""):
            least = LEAST.get((preset, measure)) if order else None
            if measure == "token_recall_features":
                least = TOKEN_RECALL
            yield _at_least(measure, about, [*by_seed.values()], least)
    for peer in PEERS:
        for measure in ("auroc", "ap"):
            ours, theirs = values["default", measure], values[peer, measure]
            gain = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
            if gain:
                yield _over(f"{measure} over {peer}", about, gain)


def _at_least(what: str, about: str, values: Sequence[float], least: float | None) -> Claim:
    mean, lo, hi = t_interval(values)
    met = None if least is None or np.isnan(mean) else bool(mean >= least)
    return Claim(what, about, mean, lo, hi, least, met)


def _over(what: str, about: str, gain: Sequence[float]) -> Claim:
    mean, lo, hi = t_interval(gain)
    return Claim(what, about, mean, lo, hi, 0.0, bool(lo > 0))


def null_claims(rows: Rows) -> list[Claim]:
    """Return how often something is found in nulls, as a multiple of its nominal rate.

    The interval is over seeds, as pairs of one world are not independent. From rows of `NULLS`.
    """
    groups: dict[tuple[str, str, float | None], list[tuple[int, float]]] = defaultdict(list)
    for row in rows:
        where = " ".join(filter(None, [row["null"], row["dictionary"], row["window"]]))
        nominal = None if row["nominal"] is None or np.isnan(row["nominal"]) else row["nominal"]
        key = f"{row['source']}: {where}", row["statistic"], nominal
        groups[key].append((row["n_pairs"], row["rate"]))
    return [_rate(*key, np.array(found)) for key, found in groups.items()]


def _rate(about: str, statistic: str, nominal: float | None, found: np.ndarray) -> Claim:
    n_pairs, rate = found.astype(np.float64).T
    mean = float(np.average(rate, weights=n_pairs)) if n_pairs.any() else np.nan
    _, lo, hi = t_interval(rate)
    what = f"{statistic} at {nominal:.2g}" if nominal else statistic
    if statistic != "p_perm":
        return Claim(what, about, mean, lo, hi, None, None)
    target = MOST_FALSE * nominal
    # A few draws of one run's documents leave the rate uncertain; worlds are made anew.
    least = lo if about.startswith("run:") and not np.isnan(lo) else mean
    return Claim(what, about, mean, lo, hi, target, bool(least <= target))


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Return mean and t interval of some values; NaN ones are left out, too few give NaN."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not values.size:
        return np.nan, np.nan, np.nan
    if values.size == 1:
        return float(values[0]), np.nan, np.nan
    half = stats.t.ppf(0.5 + confidence / 2, values.size - 1) * values.std(ddof=1)
    half /= np.sqrt(values.size)
    mean = float(values.mean())
    return mean, float(mean - half), float(mean + half)
