"""What counts, token types, permutations and regressions say of every pair, a layer at a time.

Layers are counted together as far as their tables fit TABLE_BYTES; each group of layers needs a few
passes over the features.

Axes: F supported features, E experts of a layer, X experts of the layers counted together.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from deepseemoe.config import ExpertsConfig
from deepseemoe.experts import statistics
from deepseemoe.experts.counts import N_TABLES, Halves, PairSums, count_halves
from deepseemoe.experts.join import Join
from deepseemoe.experts.permutation import Null, p_values, permute, z_scores
from deepseemoe.experts.ridge import Coefficients, Regression, Targets, regression
from deepseemoe.experts.strata import Strata, count_strata, log_odds_within, token_share
from deepseemoe.experts.support import Firings, supported_features

TABLE_BYTES = 4 << 30
"""Memory for the tables (F, X) of the layers that are counted together."""

LAYER_TABLES = 2 * N_TABLES + 8
"""Tables (F, E) of float64 that a layer takes: sums of two halves, token strata and the null."""

Columns = dict[str, np.ndarray]
"""Columns of the map of reads, as arrays that broadcast to (F, E), by name."""


class Evidence(NamedTuple):
    """All evidence of one layer that needs no model, for every supported feature and expert.

    `place` is the layer's place among those of the join. `p_held_out` (F, E) are the p values of a
    permutation that took no part in the null: of data in which nothing is to be found.
    """

    place: int
    features_F: np.ndarray
    mean_activation_F: np.ndarray
    columns: Columns
    is_tested_FE: np.ndarray
    p_held_out: np.ndarray
    error_E: np.ndarray

    def column(self, name: str) -> np.ndarray:
        """Return one column as (F, E)."""
        return np.broadcast_to(self.columns[name], self.is_tested_FE.shape)


class _Counted(NamedTuple):
    """What was counted of one layer."""

    halves: Halves
    strata: Strata
    null: Null
    choices: Coefficients
    logits: Coefficients | None


def weigh(
    joined: Join, config: ExpertsConfig, firings: Firings, *, seed: int
) -> Iterator[Evidence]:
    """Yield the evidence of each layer of a join, in order."""
    features = supported_features(config, firings)
    fit = regression(joined.text, features)
    for places in _groups(joined, features.size):
        group = joined.layers(places)
        for place, counted in enumerate(_count(group, config, features, fit, seed), places.start):
            yield _evidence(config, place, features, firings, counted)


def _groups(joined: Join, n_features: int) -> list[slice]:
    """Return runs of layers whose tables fit the memory that there is for them."""
    n_layers, n_experts = joined.routing.experts_TLK.shape[1], joined.routing.n_experts
    layer_bytes = 8 * LAYER_TABLES * max(n_features, 1) * n_experts
    size = int(np.clip(TABLE_BYTES // layer_bytes, 1, n_layers))
    return [slice(first, min(first + size, n_layers)) for first in range(0, n_layers, size)]


def _count(
    joined: Join, config: ExpertsConfig, features: np.ndarray, fit: Regression, seed: int
) -> Iterator[_Counted]:
    """Yield what is counted of each layer of a group."""
    routing, n_experts = joined.routing, joined.routing.n_experts
    halves, strata = count_halves(joined, features), count_strata(joined, features)
    whole = halves.whole
    is_tested = _expected(whole) >= config.min_expected
    null = permute(
        joined,
        features,
        n_permutations=config.n_permutations,
        seed=seed,
        both=whole.both,
        is_tested=is_tested,
    )
    clusters_F = statistics.effective_clusters(whole.f_F, whole.f_f_F)
    for place in range(routing.n_columns // n_experts):
        columns, one = slice(place * n_experts, (place + 1) * n_experts), slice(place, place + 1)
        choices, logits = (
            targets and fit.fit(
                targets, n_experts, confidence=config.confidence, clusters_F=clusters_F
            )
            for targets in (_choices(joined.layers(one)), _logits(joined.layers(one)))
        )  # fmt: skip
        yield _Counted(
            halves.layer(columns), strata.layer(columns), null.layer(columns), choices, logits
        )


def _choices(joined: Join) -> Targets:
    return lambda start, stop: joined.routing.chosen(slice(start, stop), np.float32)


def _logits(joined: Join) -> Targets | None:
    return joined.logits and joined.logits.centred


def _expected(sums: PairSums) -> np.ndarray:
    """Return the joint count (F, X) if features and choices were independent."""
    return sums.f_F[:, None] * (sums.e_X / sums.n)


def _evidence(
    config: ExpertsConfig, place: int, features: np.ndarray, firings: Firings, counted: _Counted
) -> Evidence:
    sums, null = counted.halves.whole, counted.null
    mean_activation_F = sums.activation_F / np.maximum(sums.f_F, 1)
    expected = _expected(sums)
    z = z_scores(sums.both, null)
    n_draws = null.n_draws_F[:, None]
    columns = {
        "n_documents": firings.documents_F[features, None],
        "expected": expected,
        **_associations(config, counted.halves, counted.strata),
        **_coefficients("beta_sel", counted.choices, mean_activation_F),
        **_coefficients("beta_logit", counted.logits, mean_activation_F),
        "z_perm": z,
        "p_perm": p_values(z, n_draws),
        "n_perm": n_draws,
    }
    return Evidence(
        place,
        features,
        mean_activation_F,
        columns,
        expected >= config.min_expected,
        p_values(z_scores(null.held_out, null), n_draws),
        counted.choices.error_X,
    )


def _associations(config: ExpertsConfig, halves: Halves, strata: Strata) -> Columns:
    """Return the columns that describe how firing and being chosen go together."""
    sums = halves.whole
    margins = sums.f_F[:, None], sums.e_X, sums.n
    lor, low, high = statistics.clustered_log_odds(sums, config.confidence)
    rep, rep_low, rep_high = statistics.clustered_log_odds(halves.second, config.confidence)
    first = statistics.clustered_log_odds(halves.first, config.confidence)[0]
    within, error = log_odds_within(strata)
    return {
        "n_feature": margins[0].astype(np.int64),
        "n_expert": sums.e_X.astype(np.int64),
        "n_both": sums.both.astype(np.int64),
        "p_e_given_f": sums.both / np.maximum(margins[0], 1),
        "p_e": sums.e_X / sums.n,
        "lift": statistics.lift(sums.both, *margins),
        "lift_gate": statistics.lift(sums.gate, margins[0], sums.gate_X, sums.n),
        "lor": lor,
        "lor_lo": low,
        "lor_hi": high,
        "rd": statistics.risk_difference(sums.both, *margins),
        "rd_gate": statistics.gate_difference(sums),
        "rho": statistics.rho(sums.activation, sums.activation_F[:, None], sums.e_X, sums.n),
        "lor_token": within,
        "lor_token_se": error,
        "token_share": token_share(lor, within),
        "rep_lor": rep,
        "rep_lor_lo": rep_low,
        "rep_lor_hi": rep_high,
        "rep_sign": (np.sign(rep) == np.sign(first)) & (first != 0),
    }


def _coefficients(name: str, fitted: Coefficients | None, mean_activation_F: np.ndarray) -> Columns:
    """Return coefficients and bounds as effects of one firing of mean strength."""
    bounds = {name: 0, f"{name}_lo": 1, f"{name}_hi": 2}
    if fitted is None:
        return {column: np.array(np.nan) for column in bounds}
    return {column: fitted[at] * mean_activation_F[:, None] for column, at in bounds.items()}
