"""The map of reads in worlds of known truth, and in worlds where nothing is to be found.

    python benchmarks/planted_map.py [--seeds 5] [--json FILE]

Planted worlds of two families, each easy, realistic and hard, go through the code that maps a run:
join, counts, permutation, tiers, order. First table: AUROC and average precision over tested pairs,
the mean of average precision over experts, and the shares of experts and features whose first pair
is planted, for the map's order and for single statistics, means over seeds. Second: what the map
claims of its own certainty. Third: how often it finds something in nulls, as a multiple of the
nominal rate. Last: every target, with a t interval over seeds (paired for comparisons) and whether
it is met. What the worlds are: docs/trust.md. About 100 s on one core.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from deepseemoe.config import ExpertsConfig, TrustConfig  # noqa: E402
from deepseemoe.trust.certify import null_rows, planted_rows  # noqa: E402
from deepseemoe.trust.claims import Claim, null_claims, planted_claims  # noqa: E402
from deepseemoe.trust.scores import Found  # noqa: E402


def main() -> None:
    """Print the tables, and write rows and claims as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="worlds of each kind; 2 or more")
    parser.add_argument("--json", type=Path, help="file for all rows and claims")
    arguments = parser.parse_args()
    config = TrustConfig(seeds=tuple(range(arguments.seeds)))
    planted, nulls = ([*rows(config, ExpertsConfig())] for rows in (planted_rows, null_rows))
    claims = [*planted_claims(planted), *null_claims(nulls)]
    show_orders(planted)
    show_claims("the map as a whole", [c for c in claims if c.target is None])
    show_claims("targets", [c for c in claims if c.target is not None])
    if arguments.json:
        told = {"planted": planted, "nulls": nulls, "claims": [c._asdict() for c in claims]}
        arguments.json.write_text(json.dumps(told, indent=1) + "\n")


def show_orders(rows: Sequence[dict[str, Any]]) -> None:
    """Print the means over seeds of what each order finds."""
    for world in dict.fromkeys((row["family"], row["preset"]) for row in rows):
        mine = [row for row in rows if (row["family"], row["preset"]) == world and row["order"]]
        print(f"\n{', '.join(world):20s}" + "".join(f"{name:>14s}" for name in Found._fields))
        for order in dict.fromkeys(row["order"] for row in mine):
            means = (
                np.mean([r["value"] for r in mine if (r["order"], r["measure"]) == (order, name)])
                for name in Found._fields
            )
            print(f"  {order:18s}" + "".join(f"{mean:14.3f}" for mean in means))


def show_claims(title: str, claims: Sequence[Claim]) -> None:
    """Print claims with their intervals and targets."""
    print(f"\n{title}")
    for claim in claims:
        figures = f"{claim.value:9.4f}  [{claim.lo:8.4f}, {claim.hi:8.4f}]"
        target = "" if claim.target is None else f"  target {claim.target:6.3f}"
        verdict = {True: "met", False: "MISSED", None: ""}[claim.met]
        print(f"  {claim.about:32s} {claim.what:26s} {figures}{target}  {verdict}")


if __name__ == "__main__":
    main()
