"""Statistics of pairs (feature, expert) from their counts: formulas on arrays, nothing else.

A = the feature fires on the token, Y = the router chooses the expert. Of N tokens, `n_feature` have
A, `n_expert` have Y, `both` have the two. Shapes broadcast: features as (F, 1), experts as (X,),
pairs as (F, X).
"""

import numpy as np
from scipy import stats

from deepseemoe.experts.counts import PairSums


def lift(both: np.ndarray, n_feature: np.ndarray, n_expert: np.ndarray, n: int) -> np.ndarray:
    """Return P(Y | A) / P(Y); 1 is independence. NaN where a margin is 0."""
    return _ratio(both * float(n), n_feature * np.asarray(n_expert, np.float64))


def risk_difference(
    both: np.ndarray, n_feature: np.ndarray, n_expert: np.ndarray, n: int
) -> np.ndarray:
    """Return P(Y | A) - P(Y | not A), with the feature as the contrast of SteerMoE, eq. 4.

    Source: SteerMoE, arXiv 2509.09660.
    """
    return _ratio(both, n_feature) - _ratio(n_expert - both, n - n_feature)


def gate_difference(sums: PairSums) -> np.ndarray:
    """Return the mean gate weight of an expert where the feature fires, less that where not.

    The risk difference with gate weights in place of choices; a token that does not choose the
    expert gives it 0.
    """
    n_feature = sums.f_F[:, None]
    return _ratio(sums.gate, n_feature) - _ratio(sums.gate_X - sums.gate, sums.n - n_feature)


def rho(
    activation: np.ndarray, activation_feature: np.ndarray, n_expert: np.ndarray, n: int
) -> np.ndarray:
    """Return E[z | Y] - E[z | not Y], in units of the feature's activation z.

    z is 0 where the feature is silent. `activation` is the sum of z over tokens with Y,
    `activation_feature` over all tokens. Source: rho of RouterInterp, arXiv 2610.11775.
    """
    return _ratio(activation, n_expert) - _ratio(activation_feature - activation, n - n_expert)


def log_odds_ratio(
    both: np.ndarray, n_feature: np.ndarray, n_expert: np.ndarray, n: int
) -> np.ndarray:
    """Return the log odds ratio of A and Y, nats, with 1/2 added to each cell (Haldane 1956)."""
    n11, n10, n01, n00 = _cells(both, n_feature, n_expert, n)
    return np.log(n11) - np.log(n10) - np.log(n01) + np.log(n00)


def log_odds_squares(sums: PairSums) -> np.ndarray:
    """Return the centred sum of squared influences of documents on the log odds ratio, (F, X).

    Delta method with documents as clusters: a document with counts g (both), f, e and n moves the
    log odds ratio by u = g/n11 - (f-g)/n10 - (e-g)/n01 + (n-f-e+g)/n00 = a*g - b*f - c*e + h*n. The
    sum of (u - mean u)^2 needs nothing of documents but sums of their products.
    """
    n_feature = sums.f_F[:, None]
    n11, n10, n01, n00 = _cells(sums.both, n_feature, sums.e_X, sums.n)
    b, c, h = 1 / n10 + 1 / n00, 1 / n01 + 1 / n00, 1 / n00
    a = 1 / n11 + 1 / n10 + c
    squares = (
        a * a * sums.g_g
        + b * b * sums.f_f_F[:, None]
        + c * c * sums.e_e_X
        + h * h * sums.n_n
        + 2 * a * (h * sums.g_n - b * sums.g_f - c * sums.g_e)
        + 2 * b * c * sums.f_e
        - 2 * h * (b * sums.f_n_F[:, None] + c * sums.e_n_X)
    )
    total = a * sums.both - b * n_feature - c * sums.e_X + h * sums.n
    return np.maximum(squares - total**2 / max(sums.n_documents, 1), 0)


def clustered_log_odds(
    sums: PairSums, confidence: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the log odds ratio (F, X) and the bounds of its interval, clustered by document."""
    n_feature = sums.f_F[:, None]
    lor = log_odds_ratio(sums.both, n_feature, sums.e_X, sums.n)
    clusters = effective_clusters(n_feature, sums.f_f_F[:, None])
    low, high = clustered_interval(lor, log_odds_squares(sums), clusters, confidence)
    return lor, low, high


def effective_clusters(total: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return how many equal documents would spread a feature's tokens as evenly: total^2 / squares.

    `squares` is the sum over documents of the squared counts that add up to `total` (Kish 1965; as
    degrees of freedom of clustered errors, Carter, Schnepel and Steigerwald 2017).
    """
    return _ratio(total * np.asarray(total, np.float64), squares)


def clustered_interval(
    estimate: np.ndarray, squares: np.ndarray, n_clusters: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of t intervals from centred sums of squared influences of clusters.

    C/(C-1) and C-1 degrees of freedom are the small-sample corrections of Cameron and Miller 2015,
    section VI. C is best the effective number of documents: 95 % intervals then miss a true 0 in
    4.6 to 6.3 % of planted nulls, and in 4.9 to 9.0 % with all documents as C
    (benchmarks/map_calibration.py). NaN where C is 1 or less.
    """
    freedom = np.where(n_clusters > 1, n_clusters - 1.0, np.nan)
    half = stats.t.ppf(0.5 + confidence / 2, freedom) * np.sqrt(squares * (1 + 1 / freedom))
    return estimate - half, estimate + half


def _cells(
    both: np.ndarray, n_feature: np.ndarray, n_expert: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return n11, n10, n01, n00 of the 2 x 2 tables, each with Haldane's 1/2 added."""
    n10, n01 = n_feature - both, n_expert - both
    return both + 0.5, n10 + 0.5, n01 + 0.5, n - both - n10 - n01 + 0.5


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the quotient, NaN where the denominator is 0."""
    denominator = np.asarray(denominator, np.float64)
    return numerator / np.where(denominator == 0, np.nan, denominator)
