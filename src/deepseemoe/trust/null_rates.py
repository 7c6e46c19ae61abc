"""How often the map finds something where nothing is to be found."""

from typing import NamedTuple

import numpy as np

from deepseemoe.experts.discovery import SURE

ALPHAS = (0.05, 0.01)
INTERVALS = ("lor", "beta_sel", "beta_logit")
"""Columns with an interval, whose 95 % intervals should miss 0 in 5 % of null pairs."""


class Rate(NamedTuple):
    """Share of the tested pairs of one null that are found, where `nominal` of them should be."""

    statistic: str
    nominal: float
    n_pairs: int
    rate: float


def null_rates(rows: dict[str, np.ndarray], *, confidence: float) -> list[Rate]:
    """Return the rates of all that can find something, in the rows of a null's map."""
    n_pairs, told = rows["p_perm"].size, []
    if not n_pairs:
        return told
    for alpha in ALPHAS:
        told.append(Rate("p_perm", alpha, n_pairs, float((rows["p_perm"] < alpha).mean())))
    for name in INTERVALS:
        if f"{name}_lo" in rows and not np.isnan(rows[f"{name}_lo"]).all():
            measured = ~np.isnan(rows[f"{name}_lo"])
            misses = (rows[f"{name}_lo"] > 0) | (rows[f"{name}_hi"] < 0)
            rate = float(misses[measured].mean())
            told.append(Rate(f"{name} interval", 1 - confidence, int(measured.sum()), rate))
    told.append(Rate("q", SURE, n_pairs, float((rows["q"] < SURE).mean())))
    if "tier" in rows:
        told.append(Rate("tier", 0.0, n_pairs, float(np.isin(rows["tier"], ["A", "B"]).mean())))
    return told
