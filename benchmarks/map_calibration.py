"""How far the map of reads can be believed: rates of false finds, and finds in planted worlds.

    python benchmarks/map_calibration.py [--worlds 20]

Nulls of `deepseemoe.trust.nulls`, in which features and routing are independent. The share
of tested pairs with p below .05, .01, .001 and .0001, as multiples of these, for the p values of
the map (`map`), for permutations of documents of any length (`any length`), for counts in place of
their square roots (`counts`) and for chi-square on tokens (`tokens`); and the share of 95 %
intervals of the log odds ratio that miss 0, with effective documents (`map`) or all documents as
clusters. Worlds `lengths` tie both sides to the length of a document, so their log odds ratio is
not 0.

What the map finds in planted worlds: benchmarks/planted_map.py.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "src")]

from deepseemoe.config import ExpertsConfig  # noqa: E402
from deepseemoe.experts import permutation  # noqa: E402
from deepseemoe.experts.counts import count_pairs  # noqa: E402
from deepseemoe.experts.discovery import benjamini_hochberg  # noqa: E402
from deepseemoe.experts.join import Join, join  # noqa: E402
from deepseemoe.experts.legacy import chi_square_p  # noqa: E402
from deepseemoe.experts.statistics import (  # noqa: E402
    clustered_interval,
    log_odds_ratio,
    log_odds_squares,  # noqa: E402
)
from deepseemoe.experts.support import count_firings, supported_features  # noqa: E402
from deepseemoe.trust.in_memory import shards  # noqa: E402
from deepseemoe.trust.nulls import null_world  # noqa: E402
from deepseemoe.trust.world import World  # noqa: E402

CONFIG = ExpertsConfig()
ALPHAS = (0.05, 0.01, 0.001, 0.0001)
NULLS = {
    "independent": {"spans": 1.0, "memory": 0.0},
    "spans": {},
    "documents": {"document_level": 1.0},
    "lengths": {"by_length": True},
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=20, help="worlds of each kind")
    n_worlds = parser.parse_args().worlds
    for name, options in NULLS.items():
        show_null(name, [null_rates(null_world(s, **options)) for s in range(n_worlds)])


def joined_of(world: World) -> Join:
    """Return a world's features joined with its routing."""
    parts = shards(world)
    return join(parts.features, parts.stores, layers=(1,), n_experts=world.n_experts)


def null_rates(world: World) -> dict[str, np.ndarray]:
    """Return p by method, q, and misses of intervals, of the tested pairs of a null world."""
    joined = joined_of(world)
    firings = count_firings(joined.text)
    features = supported_features(CONFIG, firings)
    sums = count_pairs(joined, features)
    n_expert = sums.e_X
    n_feature, n = firings.tokens_F[features, None], joined.text.n_tokens
    tested = n_feature * n_expert / n >= CONFIG.min_expected
    near = permuted(joined, features)
    permutation.STRATUM, stratum = 10**9, permutation.STRATUM
    far = permuted(joined, features)
    permutation.STRATUM = stratum
    p = {
        "map": p_of(sums.both, near, permutation.stabilised),
        "any length": p_of(sums.both, far, permutation.stabilised),
        "counts": p_of(sums.both, near, np.asarray),
        "tokens": chi_square_p(sums.both, n_feature, n_expert, n),
    }
    q = benjamini_hochberg(p["map"][tested])
    lor = log_odds_ratio(sums.both, n_feature, n_expert, n)
    n_documents = joined.text.documents.n_documents
    squares = log_odds_squares(sums)
    effective = n_feature**2 / sums.f_f_F[:, None]
    misses = {}
    for name, clusters in (("map", effective), ("all documents", np.full_like(lor, n_documents))):
        low, high = clustered_interval(lor, squares, clusters, 0.95)
        misses[f"miss {name}"] = ((low > 0) | (high < 0))[tested]
    return {k: v[tested] for k, v in p.items()} | {"q": q} | misses


def permuted(joined: Join, features: np.ndarray) -> np.ndarray:
    """Return the counts of all permutations, (draws, F, X)."""
    draws = range(CONFIG.n_permutations)
    return permutation.permuted_counts(joined, features, draws, seed=0)


def p_of(
    both: np.ndarray, counts: np.ndarray, scale: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return the tails of the t distribution on a scale of counts."""
    drawn, n = scale(counts), len(counts)
    deviation = drawn.std(0, ddof=1) * np.sqrt(1 + 1 / n)
    z = (scale(both) - drawn.mean(0)) / np.maximum(deviation, 1e-9)
    return permutation.p_values(z, n)


def show_null(name: str, worlds: list[Mapping[str, np.ndarray]]) -> None:
    """Print the rates of one kind of null."""
    pairs = {key: np.concatenate([world[key] for world in worlds]) for key in worlds[0]}
    n_false = np.mean([(world["q"] < 0.05).any() for world in worlds])
    print(f"\n{name}: {pairs['map'].size} pairs of {len(worlds)} worlds")
    for method in ("map", "any length", "counts", "tokens"):
        rates = [(pairs[method] < alpha).mean() / alpha for alpha in ALPHAS]
        print(f"  p {method:12s}" + "".join(f"{rate:9.2f}" for rate in rates))
    print(f"  worlds with any q < .05: {n_false:.2f}")
    for clusters in ("map", "all documents"):
        print(f"  95 % intervals that miss 0, {clusters}: {pairs[f'miss {clusters}'].mean():.3f}")


if __name__ == "__main__":
    main()
