"""One world through the code that maps a run: features joined with routing, weighed, and ordered.

Axes: F features, E experts, R rows of the map.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from deepseemoe.config import ExpertsConfig
from deepseemoe.experts.counts import count_firings
from deepseemoe.experts.join import Join, join
from deepseemoe.experts.pairs import SURE, weigh
from deepseemoe.experts.reads import read_rows
from deepseemoe.trust.in_memory import shards
from deepseemoe.trust.world import NO_CAUSE, World, causal_effects, unit

N_CAUSAL = 400
"""Tokens of a feature on which its removal is tried, as in the map of a run."""

ORDERS = (
    "default",
    "rd",
    "rho",
    "cosine",
    "p_e_given_f",
    "lift",
    "lor_lo",
    "z_perm",
    "w_map",
    "beta_sel",
    "beta_logit",
    "causal_dp",
)
"""Columns that pairs are ordered by, the map's own order first."""


class Reading(NamedTuple):
    """The map of one world of one layer: its columns, and what is true of each row."""

    rows: dict[str, np.ndarray]
    effect_R: np.ndarray | None
    is_true_R: np.ndarray | None
    is_token_R: np.ndarray | None

    @property
    def is_found(self) -> np.ndarray:
        """Rows that are found: q below .05 and more often together than by chance."""
        return (self.rows["q"] < SURE) & (self.rows["lor"] > 0)

    @property
    def is_associated(self) -> np.ndarray:
        """Rows without a cause, by the truth."""
        return np.abs(self.effect_R) < NO_CAUSE


def read_world(world: World, config: ExpertsConfig, *, seed: int) -> Reading:
    """Return the map of a world of one layer; of a null, without what needs a router."""
    parts = shards(world)
    joined = join(parts.features, parts.stores, layers=(1,), n_experts=world.n_experts)
    weights = None if world.router_LEM is None else partial(_by_weights, world)
    rows = rows_of_join(joined, config, (1,), weights=weights, seed=seed)
    if world.router_LEM is None:
        return Reading(rows, None, None, None)
    pair = rows["feature"], rows["expert"]
    cosine_FE = unit(world.decoder_FM) @ unit(world.router_LEM[0]).T
    dp_FE = causal_effects(world, world.features_TF, world.decoder_FM, most=N_CAUSAL)[0]
    rows |= {"cosine": cosine_FE[pair], "default": _pooled(rows), "causal_dp": dp_FE[pair]}
    effect_R = world.effect_LFE[0][pair]
    return Reading(rows, effect_R, world.truth_LFE[0][pair], world.is_token_F[rows["feature"]])


def rows_of_join(
    joined: Join,
    config: ExpertsConfig,
    layers: Sequence[int],
    *,
    weights: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    seed: int,
) -> dict[str, np.ndarray]:
    """Return the rows of the map of some features and routing, as the rule `map_reads` does.

    `weights` gives the map by weights (F, E) from ids and mean activations of features; without it
    `w_map` is NaN.
    """
    evidence = weigh(joined, config, count_firings(joined.text), seed=seed)
    unknown_FE = np.full((evidence.features_F.size, joined.routing.n_experts), np.nan)
    known = (evidence.features_F, evidence.mean_activation_F)
    w_maps = [unknown_FE if weights is None else weights(*known) for _ in layers]
    return read_rows(config, evidence, layers, w_maps)


def _by_weights(world: World, features: np.ndarray, mean_activation_F: np.ndarray) -> np.ndarray:
    """Return the map by weights (F, E), as `experts.weights.weight_map` has it for a model."""
    router_EM = world.router_LEM[0] - world.router_LEM[0].mean(0)
    scale = 1.0
    if world.gain_M is not None:
        router_EM = router_EM * world.gain_M
        scale = float(np.sqrt((world.residual_TM**2).mean(1)).mean())
    return world.decoder_FM[features] @ router_EM.T * (mean_activation_F[:, None] / scale)


def _pooled(rows: dict[str, np.ndarray]) -> np.ndarray:
    """Return by what pairs of all experts are ordered together: their score, if they have one.

    Else it is the share of its expert's pairs that a pair is before.
    """
    if "score" in rows:
        return rows["score"]
    n_pairs = np.bincount(rows["expert"])[rows["expert"]]
    return 1 - (rows["rank"] - 0.5) / n_pairs
