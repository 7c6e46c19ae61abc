"""The rows of the map of reads: evidence, effects and weights of one layer's tested pairs.

Axes: F supported features, E experts, R tested pairs.
"""

from collections.abc import Mapping

import numpy as np

from deepseemoe.experts.discovery import SURE, benjamini_hochberg, q_by_expert
from deepseemoe.experts.evidence import Evidence
from deepseemoe.experts.order import combined, rank_within
from deepseemoe.experts.tiers import Rows, is_token, reasons, tiers

EFFECTS = tuple(
    f"{kind}_{what}{bound}"
    for kind in ("causal", "full")
    for what in ("dp", "dm")
    for bound in ("", "_lo", "_hi")
)
"""Columns of effects that are numbers; `n_causal`, `n_full` and `reason` stand beside them."""

NOT_MEASURED = "effects were not measured"


def layer_rows(
    layer: int,
    evidence: Evidence,
    *,
    w_map_FE: np.ndarray | None = None,
    effects: Mapping[str, np.ndarray] | None = None,
) -> tuple[Rows, float]:
    """Return the tested pairs of one layer by expert and rank, and the layer's own p.

    `effects` are columns (F, E) as in effects.parquet; without them, and without the map by
    weights, their columns have no numbers. `q_all` is still to be multiplied by what the choice of
    layers costs (discovery.layer_factors).
    """
    expert, place = np.nonzero(evidence.is_tested_FE.T)

    def of_pairs(values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values, evidence.is_tested_FE.shape)[place, expert]

    rows = {name: of_pairs(values) for name, values in evidence.columns.items()}
    rows |= {"layer": np.full(expert.size, layer), "expert": expert}
    rows["feature"] = evidence.features_F[place]
    rows["w_map"] = of_pairs(np.array(np.nan) if w_map_FE is None else w_map_FE)
    effects = effects or {"reason": np.array(NOT_MEASURED, dtype=object)}
    for name in EFFECTS:
        rows[name] = of_pairs(effects.get(name, np.array(np.nan)))
    for name in ("n_causal", "n_full"):
        rows[name] = of_pairs(effects.get(name, np.array(0)))
    rows["q"] = benjamini_hochberg(rows["p_perm"])
    rows["q_all"], p = q_by_expert(expert, rows["p_perm"], SURE)
    rows["is_token"], rows["tier"] = is_token(rows), tiers(rows)
    rows["reason"] = reasons(rows, of_pairs(effects["reason"]))
    score = combined(rows["beta_sel"], rows["beta_logit"], rows["causal_dp"])
    rows["rank"] = rank_within(expert, rows["lor"] > 0, score)
    order = np.lexsort((rows["rank"], expert))
    return {name: values[order] for name, values in rows.items()}, p
