"""The rows of the table of effects: every supported feature and every expert of one router.

Axes: F supported features, E experts, G features that were taken out of the running model.
"""

import numpy as np

from deepseemoe.experts.effect_sums import Effects

NOT_WRITTEN = "writes nothing before this router"
POOLED = "the router reads several tokens at once"
ONE_DOCUMENT = "firings are of one document"
ALL_CHOSEN = "every token chooses every expert"
NOT_ABLATED = "full: not among the features with the largest local effects"


def effect_rows(
    layer: int,
    features: np.ndarray,
    local: Effects,
    strongest: np.ndarray,
    full: Effects,
    *,
    routes_single_tokens: bool,
) -> dict[str, np.ndarray]:
    """Return the columns of one layer by feature, then expert.

    `strongest` are the places in `features` of those that `full` is of.
    """
    n_features, n_experts = local.dp.shape
    whole = {name: np.full(part.shape, np.nan) for name, part in local._asdict().items()}
    whole["n_F"] = np.zeros(n_features, np.int32)
    for name, part in full._asdict().items():
        whole[name][strongest] = part
    everywhere = Effects(**whole)
    reasons_F = _reasons(local, everywhere, strongest, routes_single_tokens)
    rows = {
        "layer": np.full(n_features * n_experts, layer, np.uint16),
        "feature": np.repeat(features, n_experts),
        "expert": np.tile(np.arange(n_experts), n_features),
        "reason": np.repeat(reasons_F, n_experts),
    }
    for prefix, n_name, found in (("causal", "n_causal", local), ("full", "n_full", everywhere)):
        rows[n_name] = np.repeat(found.n_F, n_experts)
        for name in found._fields[1:]:
            rows[f"{prefix}_{name}"] = getattr(found, name).ravel().astype(np.float32)
    return rows


def _reasons(
    local: Effects, full: Effects, strongest: np.ndarray, routes_single_tokens: bool
) -> np.ndarray:
    """Return why numbers of each feature are missing (F,)."""
    n_features = local.n_F.size
    is_ablated = np.zeros(n_features, bool)
    is_ablated[strongest] = True
    is_unread = (local.n_F == 0) if routes_single_tokens else np.zeros(n_features, bool)
    no_margin = np.isnan(local.dm).all(1) & (local.n_F > 0)
    told = [
        (is_unread, NOT_WRITTEN),
        (np.full(n_features, not routes_single_tokens), POOLED),
        (no_margin, ALL_CHOSEN),
        ((local.n_F > 0) & np.isnan(local.dp_lo).all(1), ONE_DOCUMENT),
        (~is_ablated & ~is_unread, NOT_ABLATED),
        ((full.n_F > 0) & np.isnan(full.dp_lo).all(1), f"full: {ONE_DOCUMENT}"),
    ]
    reasons_F = np.full(n_features, "", object)
    for applies_F, reason in told:
        for before in set(reasons_F[applies_F]):
            here = applies_F & (reasons_F == before)
            reasons_F[here] = f"{before}; {reason}" if before else reason
    return reasons_F
