"""Figure of co-activation: which experts of a layer are chosen together, beyond chance.

A token chooses k different experts, so even indifferent routers choose pairs less often than the
product of their shares says: with 2 of 8 experts, by 43 %. Chance here is therefore
quasi-independence (Bishop, Fienberg and Holland 1975, chapter 5): counts w_a w_b off the diagonal
and none on it, with the observed total of each expert.
"""

import numpy as np
from matplotlib.figure import Figure

from deepseemoe.names import ExpertId, layer_name
from deepseemoe.report.grids import (
    MAX_NAMED,
    Panels,
    grid_of,
    heat_map,
    leaf_order,
    log_ratio,
    ratio_bar,
    robust_limit,
)
from deepseemoe.report.style import WIDTH, empty, headline, styled
from deepseemoe.report.tables import Table, select

COACTIVATION_COLUMNS = ("layer", "expert_a", "expert_b", "n_tokens")
PRIOR_TOKENS = 5.0
"""Added to observed and expected counts: of an expert that few tokens choose, little is known."""
_NOTE = (
    "Observed ÷ expected tokens that choose both; expected: a token draws k different experts, "
    "each as often as it is chosen. Experts stand in the order of a clustering of each layer. Five "
    "tokens are added to both counts, so that rare pairs stay near 1."
)


@styled
def draw_coactivation(table: Table) -> Figure:
    """Draw how much more often than by chance two experts are chosen together, by layer."""
    if not table["n_tokens"].any():
        return _no_pairs()
    layers, n_experts = np.unique(table["layer"]).astype(int), int(table["expert_a"].max()) + 1
    ratios = {layer: _ratio_of_layer(table, layer, n_experts) for layer in layers.tolist()}
    limit = robust_limit(log_ratio(np.stack([*ratios.values()])), at_least=0.5, at_most=2)
    panels = Panels(len(layers), width=2.6, height=2.75, most=4)
    for axes, (layer, ratio_EE) in zip(panels.axes, ratios.items(), strict=True):
        logs_EE = log_ratio(ratio_EE)
        order = leaf_order(np.nan_to_num(logs_EE))
        image = heat_map(axes, logs_EE[np.ix_(order, order)], limit)
        axes.set(title=layer_name(layer), aspect="equal")
        names = [f"E{expert}" for expert in order] if n_experts <= MAX_NAMED else []
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    ratio_bar(panels.figure, image, panels.axes, "observed ÷ expected", limit)
    headline(panels.figure, _finding(ratios), _NOTE)
    return panels.figure


def ratio_to_chance(counts_EE: np.ndarray, *, n_rounds: int = 200) -> np.ndarray:
    """Return counts of pairs over their quasi-independent expectation, PRIOR_TOKENS added to both.

    `counts_EE` is symmetric; the weights of experts are found by iterative proportional fitting.
    NaN on the diagonal and for experts that are never chosen.
    """
    off = 1.0 - np.eye(len(counts_EE))
    counts_EE = counts_EE * off
    totals_E = counts_EE.sum(1)
    weights_E = totals_E / np.sqrt(max(totals_E.sum(), 1))
    for _ in range(n_rounds):
        fitted_E = weights_E * (off @ weights_E)
        weights_E = weights_E * np.sqrt(totals_E / np.where(fitted_E > 0, fitted_E, 1))
    expected_EE = np.outer(weights_E, weights_E) * off
    ratio_EE = (counts_EE + PRIOR_TOKENS) / (expected_EE + PRIOR_TOKENS)
    return np.where(expected_EE > 0, ratio_EE, np.nan)


def _ratio_of_layer(table: Table, layer: int, n_experts: int) -> np.ndarray:
    mine = select(table, table["layer"] == layer)
    counts_EE = np.nan_to_num(grid_of(mine, "n_tokens", "expert_a", "expert_b", (n_experts,) * 2))
    return ratio_to_chance(np.maximum(counts_EE, counts_EE.T))


def _no_pairs() -> Figure:
    figure = Figure(figsize=(WIDTH, 1.9), layout="constrained")
    empty(figure.subplots(), "Each token chooses one expert of a layer: there are no pairs.")
    headline(figure, "Experts are never chosen together in this model")
    return figure


def _finding(ratios: dict[int, np.ndarray]) -> str:
    layer = max(ratios, key=lambda layer: np.nanmax(ratios[layer]))
    a, b = np.unravel_index(np.nanargmax(ratios[layer]), ratios[layer].shape)
    return (
        f"{ExpertId(layer, int(a))} and {ExpertId(layer, int(b))} are chosen together "
        f"{ratios[layer][a, b]:.2f} times as often as by chance, more than any other pair"
    )
