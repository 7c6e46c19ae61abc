"""Which experts the features of a dictionary call, in a few words: other tools know no routers."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deepseemoe.names import ExpertId

MAX_Q = 0.05
"""A feature calls an expert below this q, where lor > 0, as in `compare`."""
PER_FEATURE, PER_SOURCE = 3, 10
"""Experts that are named."""


class Called(NamedTuple):
    """What is said of the experts that features call."""

    by_feature: dict[int, str]
    """`calls L01.E3 (tier A), L02.E0 (tier C)`"""
    summary: str


def called_experts(reads: Path) -> Called:
    """Return the experts that features call by reads.parquet; no words where it was not made."""
    if not reads.is_file():
        return Called({}, "")
    with pq.ParquetFile(reads) as file:
        names = set(file.schema_arrow.names)
        wanted = ["layer", "expert", "feature", "q", "lor", *sorted({"tier", "lor_lo"} & names)]
        table = file.read(wanted)
    table = table.filter((pc.field("q") < MAX_Q) & (pc.field("lor") > 0))
    order = "lor_lo" if "lor_lo" in names else "lor"
    tiers = table["tier"].to_pylist() if "tier" in names else [""] * len(table)
    experts = [
        str(ExpertId(*pair))
        for pair in zip(table["layer"].to_pylist(), table["expert"].to_pylist(), strict=True)
    ]
    features = table["feature"].to_numpy()
    places = np.lexsort((-np.nan_to_num(table[order].to_numpy()), tiers, features))
    found: dict[int, list[str]] = {}
    for place in places.tolist():
        named = found.setdefault(int(features[place]), [])
        if len(named) < PER_FEATURE:
            tier = f" (tier {tiers[place]})" if tiers[place] else ""
            named.append(experts[place] + tier)
    by_feature = {feature: "calls " + ", ".join(named) for feature, named in found.items()}
    most = sorted(Counter(experts).items(), key=lambda pair: (-pair[1], pair[0]))[:PER_SOURCE]
    told = ", ".join(f"{expert} by {n}" for expert, n in most)
    summary = f"Experts that most features call (q < {MAX_Q:g}): {told}." if told else ""
    return Called(by_feature, summary)
