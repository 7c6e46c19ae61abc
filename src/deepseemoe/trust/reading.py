"""One world through the code that maps a run: features joined with routing, weighed, and ordered.

Axes: T tokens, F features, L layers, E experts, K top_k, R rows of the map.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepseemoe.config import ExpertsConfig
from deepseemoe.experts.discovery import SURE
from deepseemoe.experts.effects_local import local_effects
from deepseemoe.experts.evidence import Evidence, weigh
from deepseemoe.experts.join import Join, join
from deepseemoe.experts.order import combined
from deepseemoe.experts.rows import layer_rows
from deepseemoe.experts.support import count_firings
from deepseemoe.trust.in_memory import shards
from deepseemoe.trust.world import NO_CAUSE, World, unit

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


class Account(NamedTuple):
    """What a router itself says of the pairs (F, E) of one layer: weights and effects."""

    w_map_FE: np.ndarray
    effects: Mapping[str, np.ndarray]


def read_world(world: World, config: ExpertsConfig, *, seed: int) -> Reading:
    """Return the map of a world of one layer; of a null, without what needs a router."""
    parts = shards(world, router_logits=world.router_LEM is not None)
    joined = join(parts.features, parts.stores, layers=(1,), n_experts=world.n_experts)
    if world.router_LEM is None:
        return Reading(rows_of_join(joined, config, (1,), seed=seed), None, None, None)
    rows = rows_of_join(
        joined, config, (1,), account=lambda e: _account(world, e, config, seed), seed=seed
    )
    pair = rows["feature"], rows["expert"]
    cosine_FE = unit(world.decoder_FM) @ unit(world.router_LEM[0]).T
    score = combined(rows["beta_sel"], rows["beta_logit"], rows["causal_dp"])
    rows |= {"cosine": cosine_FE[pair], "default": score}
    effect_R = world.effect_LFE[0][pair]
    return Reading(rows, effect_R, world.truth_LFE[0][pair], world.is_token_F[rows["feature"]])


def rows_of_join(
    joined: Join,
    config: ExpertsConfig,
    layers: Sequence[int],
    *,
    account: Callable[[Evidence], Account] | None = None,
    seed: int,
) -> dict[str, np.ndarray]:
    """Return the rows of the map of some features and routing, as the rule `map_reads` makes them.

    Without an `account` of the router the columns that need one have no numbers.
    """
    tables = []
    for evidence in weigh(joined, config, count_firings(joined.text), seed=seed):
        told = account(evidence)._asdict() if account else {}
        tables.append(layer_rows(layers[evidence.place], evidence, **told)[0])
    return {name: np.concatenate([rows[name] for rows in tables]) for name in tables[0]}


class _Decided(NamedTuple):
    """What a planted router decided, as `experts.effects_local.Decided`."""

    scores_TE: Tensor
    ids_TK: Tensor


def _account(world: World, evidence: Evidence, config: ExpertsConfig, seed: int) -> Account:
    """Return what the planted router says of directions as the dictionary knows them."""
    features = evidence.features_F

    def route(residual_TM: Tensor) -> _Decided:
        scores_TE = torch.from_numpy(world.scores(residual_TM.numpy(), 0))
        return _Decided(scores_TE, scores_TE.topk(world.top_k, dim=1).indices)

    local = local_effects(
        torch.from_numpy(world.residual_TM),
        features_TF=world.features_TF[:, features],
        document_T=world.document_T,
        directions_FD=torch.from_numpy(world.decoder_FM[features]),
        route=route,
        n_tokens=config.effect_tokens,
        confidence=config.confidence,
        seed=seed,
    )
    effects = {f"causal_{name}": getattr(local, name) for name in local._fields[1:]}
    effects |= {"n_causal": local.n_F[:, None], "reason": np.array("", dtype=object)}
    return Account(_by_weights(world, features, evidence.mean_activation_F), effects)


def _by_weights(world: World, features: np.ndarray, mean_activation_F: np.ndarray) -> np.ndarray:
    """Return the map by weights (F, E), as `experts.weights.weight_map` has it for a model."""
    router_EM = world.router_LEM[0] - world.router_LEM[0].mean(0)
    scale = 1.0
    if world.gain_M is not None:
        router_EM = router_EM * world.gain_M
        scale = float(np.sqrt((world.residual_TM**2).mean(1)).mean())
    return world.decoder_FM[features] @ router_EM.T * (mean_activation_F[:, None] / scale)
