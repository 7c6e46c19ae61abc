"""Planted maps: 2 of 5 features call one expert of each router, and avoid the others a little."""

import numpy as np
from scipy.special import expit, logit
from scipy.stats import false_discovery_control, norm

from deepseemoe.runtime.files import write_json

TOKENS_LIKE_ONE = 6
"""Tokens of a document agree; this many count as one observation."""


def write_maps(folder, rng, save, n_active_F, shares) -> None:
    """Write `reads.parquet` and `summary.json`, and `writes.parquet`.

    `shares` has the share of tokens of each expert, by layer.
    """
    n_features = len(n_active_F)
    home_F = rng.integers(1000, size=n_features)
    pull_F = np.where(rng.random(n_features) < 0.4, rng.gamma(4, 0.55, n_features), 0)
    tables = [no_pairs()]
    for layer, share_E in shares.items():
        lor_FE = np.zeros((n_features, len(share_E))) - 0.25 * pull_F[:, None]
        lor_FE[np.arange(n_features), (home_F + layer) % len(share_E)] = pull_F
        tables.append(pairs(rng, layer, n_active_F, share_E, lor_FE))
    reads = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    save(folder / "reads.parquet", reads)
    write_evidence(folder, rng, save, shares, n_tested=len(reads["feature"]))
    _write_writes(folder / "writes.parquet", rng, save, reads)


def write_evidence(folder, rng, save, shares, *, n_tested):
    """Write `summary.json`, and `agreement.parquet` with an expert that has no correlation."""
    curve = [{"n_pairs": 9, "share_causal": b / 20, "mean_causal_dp": 0.01} for b in range(10)]
    summary = {
        "null": {"share_p_below_.05": 0.048},
        "n_tested": n_tested,
        **{f"n_tier_{tier}": n_tested // 5 for tier in "ABC"},
        "by_layer": [{"layer": layer, "calibration": curve} for layer in shares],
    }
    write_json(folder / "summary.json", summary)
    kinds = [("regression", "weights"), ("regression", "causal"), ("weights", "causal")]
    rows = [(layer, expert, *two) for layer in shares for expert in range(2) for two in kinds]
    spearman = rng.uniform(0, 0.8, len(rows))
    spearman[-1] = np.nan
    names = ("layer", "expert", "one", "other")
    columns = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
    save(folder / "agreement.parquet", columns | {"spearman": spearman})


def no_pairs():
    """Return a map in which nothing was tested."""
    return pairs(np.random.default_rng(0), 0, np.zeros(1, int), np.ones(1) / 2, np.zeros((1, 1)))


def pairs(rng, layer, n_active_F, share_E, lor_FE):
    """Return the tested pairs of a layer: counts are drawn, estimates follow from the counts."""
    feature, expert = np.nonzero(
        np.minimum(n_active_F[:, None], 10 * n_active_F[:, None] * share_E) >= 50
    )
    n, p_e, lor = n_active_F[feature], share_E[expert], lor_FE[feature, expert]
    trials = np.maximum(n // TOKENS_LIKE_ONE, 20)
    hits = rng.binomial(trials, expit(logit(p_e) + lor))
    p = (hits + 0.5) / (trials + 1)
    measured = logit(p) - logit(p_e)
    error = np.sqrt(1 / (hits + 0.5) + 1 / (trials - hits + 0.5))
    z = (p - p_e) / np.sqrt(p_e * (1 - p_e) / trials)
    p_perm = 2 * norm.sf(np.abs(z))
    low = measured - 1.96 * error
    return {
        "layer": np.full(len(feature), layer),
        "expert": expert,
        "feature": feature,
        "n_feature": n,
        "p_e_given_f": p,
        "p_e": p_e,
        "lift": p / p_e,
        "lor": measured,
        "lor_lo": low,
        "lor_hi": measured + 1.96 * error,
        "q": false_discovery_control(p_perm) if len(p_perm) else p_perm,
        "w_map": np.where(lor > 0, lor + rng.normal(0, 0.5, len(lor)), np.nan),
        "causal_dp": np.where(lor > 0, 0.05 * lor, np.nan),
        "causal_dp_lo": np.where(lor > 0, 0.03 * lor, np.nan),
        "causal_dp_hi": np.where(lor > 0, 0.07 * lor, np.nan),
        "is_token": rng.random(len(lor)) < 0.2,
        "tier": rng.choice(["A", "B", "C"], len(lor)),
        "rank": _rank_by_group(expert, -low),
    }


def _rank_by_group(group, value):
    """Return the place of each value inside its group, 1 the smallest."""
    order = np.lexsort((value, group))
    opens = np.searchsorted(group[order], group[order])
    rank = np.empty(len(group), int)
    rank[order] = np.arange(len(group)) - opens + 1
    return rank


def _write_writes(path, rng, save, reads):
    rows = rng.permutation(len(reads["layer"]))[:500]
    contrast = rng.normal(0, 0.4, len(rows))
    pair = {name: reads[name][rows] for name in ("layer", "expert", "feature")}
    bounds = {"contrast_lo": contrast - 0.2, "contrast_hi": contrast + 0.2}
    save(path, {**pair, "contrast": contrast, **bounds})
