"""What the map finds in planted worlds, order by order, and how often it is wrong."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from deepseemoe.config import ExpertsConfig
from deepseemoe.trust import scores, topics, worlds
from deepseemoe.trust.reading import ORDERS, Reading, read_world
from deepseemoe.trust.world import World

FAMILIES: Mapping[str, Any] = MappingProxyType({"sums": worlds, "topics": topics})
"""Generators of worlds by name; they share no code for text, features or routers."""

TOKEN_PAIRS = 0.5
"""Share of a feature's found pairs that must be flagged for the feature to count as flagged."""


class Judged(NamedTuple):
    """Scores of every order in one world, and what is true of the rows found."""

    orders: dict[str, scores.Found]
    told: dict[str, float]


def planted_world(family: str, preset: str, seed: int) -> World:
    """Return a world of a family, easy, realistic or hard."""
    module = FAMILIES[family]
    return module.world(seed, **module.PRESETS[preset])


def judge_world(world: World, config: ExpertsConfig, *, seed: int) -> Judged:
    """Return how the map of a planted world compares with the truth."""
    return judge(read_world(world, config, seed=seed))


def judge(reading: Reading) -> Judged:
    """Return the scores of all orders that the rows hold, and shares of what was found."""
    rows, truth = reading.rows, reading.is_true_R
    groups = {"expert": rows["expert"], "feature": rows["feature"]}
    orders = {name: scores.found(rows[name], truth, **groups) for name in ORDERS if name in rows}
    is_found = reading.is_found
    told = {
        "n_tested": truth.size,
        "share_true": truth.mean(),
        "n_found": is_found.sum(),
        "precision_found": _share(truth, is_found),
        "recall_found": _share(is_found, truth),
    }
    return Judged(orders, told | _replication(reading) | _tiers(reading) | _token_flags(reading))


def _replication(reading: Reading) -> dict[str, float]:
    """Return how often found pairs have the same sign on documents that took no part."""
    rows = reading.rows
    if "rep_sign" not in rows:
        return {}
    measured = reading.is_found & ~np.isnan(rows["rep_lor"])
    return {
        "replicated": _share(rows["rep_sign"] > 0, measured),
        "replicated_true": _share(rows["rep_sign"] > 0, measured & reading.is_true_R),
        "rep_interval_above_0": _share(rows["rep_lor_lo"] > 0, measured & reading.is_true_R),
    }


def _tiers(reading: Reading) -> dict[str, float]:
    """Return which share of each tier is true, and which causal, merely associated or neither."""
    rows, told = reading.rows, {}
    if "tier" not in rows:
        return {}
    for tier in "ABC":
        mine = (rows["tier"] == tier) & (rows["lor"] > 0)
        told |= {
            f"n_tier_{tier}": mine.sum(),
            f"precision_tier_{tier}": _share(reading.is_true_R, mine),
            f"recall_tier_{tier}": _share(mine, reading.is_true_R),
            f"no_cause_tier_{tier}": _share(reading.is_associated, mine),
        }
    return told


def _token_flags(reading: Reading) -> dict[str, float]:
    """Return how many found pairs of token features are flagged, and how many of others are."""
    rows = reading.rows
    if "is_token" not in rows:
        return {}
    flagged, found = rows["is_token"].astype(bool), reading.is_found
    told = {
        "token_recall_pairs": _share(flagged, found & reading.is_token_R),
        "token_false_pairs": _share(flagged, found & ~reading.is_token_R),
        "token_false_true_pairs": _share(flagged, found & ~reading.is_token_R & reading.is_true_R),
    }
    features = rows["feature"][found]
    of_F = np.unique(features, return_index=True, return_inverse=True)
    share_F = np.bincount(of_F[2], flagged[found]) / np.bincount(of_F[2])
    is_token_F = reading.is_token_R[found][of_F[1]]
    return told | {
        "token_recall_features": _share(share_F >= TOKEN_PAIRS, is_token_F),
        "token_false_features": _share(share_F >= TOKEN_PAIRS, ~is_token_F),
    }


def _share(what: np.ndarray, among: np.ndarray) -> float:
    return float(what[among].mean()) if among.any() else float("nan")
