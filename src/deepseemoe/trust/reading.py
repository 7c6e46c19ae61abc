"""One world through the code that maps a run: features joined with routing, weighed, and ordered.

Axes: F features, E experts, R rows of the map.
"""

from typing import NamedTuple

import numpy as np

from deepseemoe.config import ExpertsConfig
from deepseemoe.experts.discovery import SURE
from deepseemoe.experts.evidence import weigh
from deepseemoe.experts.join import join
from deepseemoe.experts.order import combined
from deepseemoe.experts.rows import layer_rows
from deepseemoe.experts.support import count_firings
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
    evidence = next(weigh(joined, config, count_firings(joined.text), seed=seed))
    features = evidence.features_F
    if world.router_LEM is None:
        return Reading(layer_rows(1, evidence)[0], None, None, None)
    dp_FE = causal_effects(world, world.features_TF, world.decoder_FM, most=N_CAUSAL)[0]
    rows, _ = layer_rows(
        1,
        evidence,
        w_map_FE=_by_weights(world, features, evidence.mean_activation_F),
        effects={"causal_dp": dp_FE[features], "reason": np.array("", dtype=object)},
    )
    pair = rows["feature"], rows["expert"]
    cosine_FE = unit(world.decoder_FM) @ unit(world.router_LEM[0]).T
    score = combined(rows["beta_sel"], rows["beta_logit"], rows["causal_dp"])
    rows |= {"cosine": cosine_FE[pair], "default": score}
    effect_R = world.effect_LFE[0][pair]
    return Reading(rows, effect_R, world.truth_LFE[0][pair], world.is_token_F[rows["feature"]])


def _by_weights(world: World, features: np.ndarray, mean_activation_F: np.ndarray) -> np.ndarray:
    """Return the map by weights (F, E), as `experts.weights.weight_map` has it for a model."""
    router_EM = world.router_LEM[0] - world.router_LEM[0].mean(0)
    scale = 1.0
    if world.gain_M is not None:
        router_EM = router_EM * world.gain_M
        scale = float(np.sqrt((world.residual_TM**2).mean(1)).mean())
    return world.decoder_FM[features] @ router_EM.T * (mean_activation_F[:, None] / scale)
