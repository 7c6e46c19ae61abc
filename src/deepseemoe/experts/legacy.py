"""Formulas that peers publish for feature and expert, as they publish them: for comparison alone.

None is a column of the maps. Risk difference and rho are (`rd`, `rho`), for they are sound as
descriptions; these two mislead: a cosine knows nothing of what the norm, the bias and other
features do, and a chi-square of tokens takes every token as an independent trial.

Axes: F features, E experts.
"""

import numpy as np
from scipy import stats

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.experts.weights import written_before
from deepseemoe.model.adapter import MoeModel


def cosine(model: MoeModel, dictionary: Dictionary, layer: int, features: np.ndarray) -> np.ndarray:
    """Return the cosine (F, E) of a feature's direction and a router's row, norm and gain left out.

    NaN where a feature has written nothing before the router. Source: RouterInterp, arXiv
    2610.11775.
    """
    direction_FD = written_before(dictionary, layer)[features]
    row_ED = model.router_weight(layer).detach().to("cpu").double().numpy()
    sizes_FE = np.outer(np.linalg.norm(direction_FD, axis=1), np.linalg.norm(row_ED, axis=1))
    return np.divide(
        direction_FD @ row_ED.T, sizes_FE, np.full(sizes_FE.shape, np.nan), where=sizes_FE > 0
    )


def chi_square_p(
    both: np.ndarray, n_feature: np.ndarray, n_expert: np.ndarray, n: int
) -> np.ndarray:
    """Return p of the 2 x 2 table with tokens taken as independent.

    On token streams it rejects 15 to 41 % of true nulls at a nominal 1 %
    (benchmarks/map_calibration.py).
    """
    expected = n_feature * n_expert / n
    variance = expected * (1 - n_feature / n) * (1 - n_expert / n)
    return stats.chi2.sf((both - expected) ** 2 / variance, 1)
