"""Evidence for each pair of a feature and an expert, which pairs are tested, and their order.

Axes: F tested features, X experts of all routing layers, R rows of a table.
"""

from typing import NamedTuple

import numpy as np

from deepseemoe.config import ExpertsConfig
from deepseemoe.experts import statistics
from deepseemoe.experts.counts import Firings, PairSums, count_choices, count_pairs
from deepseemoe.experts.join import Join
from deepseemoe.experts.permutation import p_values, permute, z_scores

SURE = 0.05
"""False discovery rate below which a pair counts as found."""


class Evidence(NamedTuple):
    """Columns of the map of reads as arrays that broadcast to (F, X), by name.

    `p_held_out` (F, X) are the p values of a permutation that took no part in the null: of data in
    which nothing is to be found.
    """

    features_F: np.ndarray
    columns: dict[str, np.ndarray]
    mean_activation_F: np.ndarray
    p_held_out: np.ndarray


def supported_features(config: ExpertsConfig, firings: Firings) -> np.ndarray:
    """Return the ids of features that fire on enough tokens, in enough documents."""
    is_wide = firings.documents_F >= config.min_documents
    return np.flatnonzero((firings.tokens_F >= config.min_tokens) & is_wide)


def weigh(joined: Join, config: ExpertsConfig, firings: Firings, *, seed: int) -> Evidence:
    """Return the evidence for every pair of a supported feature and an expert."""
    features = supported_features(config, firings)
    n_expert, n = count_choices(joined.routing), joined.text.n_tokens
    sums = count_pairs(joined, features)
    margins = firings.tokens_F[features, None], n_expert, n
    null = permute(joined, features, n_permutations=config.n_permutations, seed=seed)
    z = z_scores(sums.both, null)
    columns = {
        "n_feature": margins[0],
        "n_documents": firings.documents_F[features, None],
        "n_expert": n_expert,
        "n_both": sums.both.astype(np.int64),
        "expected": margins[0] * (n_expert / n),
        "p_e_given_f": sums.both / margins[0],
        "p_e": n_expert / n,
        "lift": statistics.lift(sums.both, *margins),
        "weight_lift": statistics.lift(sums.gate, margins[0], sums.gate_X, n),
        **_log_odds(config, sums, *margins, n_documents=joined.text.documents.n_documents),
        "rd": statistics.risk_difference(sums.both, *margins),
        "rho": statistics.rho(sums.activation, sums.activation_F[:, None], n_expert, n),
        "z_perm": z,
        "p_perm": p_values(z, config.n_permutations),
    }
    held_out = p_values(z_scores(null.held_out, null), config.n_permutations)
    return Evidence(features, columns, sums.activation_F / margins[0][:, 0], held_out)


def is_tested(config: ExpertsConfig, evidence: Evidence) -> np.ndarray:
    """Return which pairs (F, X) are tested: those that would meet often enough by chance."""
    return evidence.columns["expected"] >= config.min_expected


def layer_rows(
    evidence: Evidence, w_map_FE: np.ndarray, columns: slice, is_tested_FX: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the tested pairs of one layer, by expert and rank; `columns` are the layer's in X."""
    shape = is_tested_FX.shape
    expert, place = np.nonzero(is_tested_FX[:, columns].T)
    rows = {
        name: np.broadcast_to(values, shape)[:, columns][place, expert]
        for name, values in evidence.columns.items()
    }
    rows |= {"expert": expert, "feature": evidence.features_F[place]}
    rows["q"] = statistics.benjamini_hochberg(rows["p_perm"])
    rows["w_map"] = w_map_FE[place, expert]
    is_found = (rows["q"] < SURE) & (rows["lor"] > 0)
    rows["rank"] = rank(expert, is_found, rows["lor_lo"], rows["w_map"])
    order = np.lexsort((rows["rank"], expert))
    return {name: values[order] for name, values in rows.items()}


def rank(
    expert_R: np.ndarray, is_found_R: np.ndarray, lor_lo_R: np.ndarray, w_map_R: np.ndarray
) -> np.ndarray:
    """Return the place (R,), from 1, of each pair among those of its expert.

    Found pairs come first; among them, and among the others, the mean of a pair's places by
    `lor_lo` and by `w_map` decides, by `lor_lo` alone where w_map is NaN. The two err differently:
    counts cannot tell a cause from its companions, and weights do not know what a feature meets. In
    planted worlds this order finds more than either (benchmarks/map_calibration.py).
    """
    by_counts, by_weights = _fraction(expert_R, lor_lo_R), _fraction(expert_R, w_map_R)
    score = by_counts + np.where(np.isnan(by_weights), by_counts, by_weights)
    return _place(expert_R, np.lexsort((-score, ~is_found_R, expert_R))) + 1


def _fraction(group_R: np.ndarray, values_R: np.ndarray) -> np.ndarray:
    """Return which share of its group each value is above, 0 to 1; NaN stays NaN."""
    finite = np.flatnonzero(~np.isnan(values_R))
    group = group_R[finite]
    above = _place(group, np.lexsort((values_R[finite], group)))
    fraction = np.full(values_R.size, np.nan)
    fraction[finite] = above / np.maximum(np.bincount(group)[group] - 1, 1) if finite.size else 0
    return fraction


def _place(group_R: np.ndarray, order_R: np.ndarray) -> np.ndarray:
    """Return each row's place in its group, from 0, where `order_R` sorts by group first."""
    group = group_R[order_R]
    place = np.empty(order_R.size, np.int64)
    place[order_R] = np.arange(order_R.size) - np.searchsorted(group, group)
    return place


def _log_odds(
    config: ExpertsConfig,
    sums: PairSums,
    n_feature: np.ndarray,
    n_expert: np.ndarray,
    n: int,
    *,
    n_documents: int,
) -> dict[str, np.ndarray]:
    """Return the log odds ratio and the bounds of its interval."""
    lor = statistics.log_odds_ratio(sums.both, n_feature, n_expert, n)
    squares = statistics.log_odds_squares(sums, n_feature, n_expert, n, n_documents)
    clusters = statistics.effective_clusters(n_feature, sums.f_f_F[:, None])
    low, high = statistics.clustered_interval(lor, squares, clusters, config.confidence)
    return {"lor": lor, "lor_lo": low, "lor_hi": high}
