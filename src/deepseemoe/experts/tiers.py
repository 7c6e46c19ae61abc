"""How far to believe a pair: tiers of evidence, the flag of token identity, what is missing.

Axes: R pairs of one layer.
"""

import numpy as np

from deepseemoe.experts.discovery import SURE

TOKEN_SHARE = 0.8
"""Share of a log odds ratio that goes away within token types and leaves the token as cause."""

PART_SHARE, CERTAIN = 0.3, 2.0
"""Share that must go away in any case, and standard errors that what is left must reach."""

Rows = dict[str, np.ndarray]

REASONS = {
    "lor_lo": "lor_lo, lor_hi: in effect the feature fires in one document",
    "rep_lor_lo": "rep_lor_lo, rep_lor_hi: in effect it fires in one document of the second half",
    "lor_token": "lor_token: it fires on all occurrences of its tokens, or on too few",
    "beta_logit": "beta_logit, beta_logit_lo, beta_logit_hi: router logits are not stored",
    "w_map": "w_map: no path of weights leads to the router",
    "causal_dp": "causal: ",
    "causal_dp_lo": "causal_dp_lo, causal_dp_hi: measured in one document",
}
"""What is said of a column that has no number; `causal` is followed by the effects' own reason."""


def replicated(rows: Rows) -> np.ndarray:
    """Return which pairs (R,) the second half of the documents shows again.

    Its interval excludes 0, on the side of all documents and of the first half.
    """
    up = np.sign(rows["lor"])
    return rows["rep_sign"] & _excludes(rows, "rep_lor", up)


def tiers(rows: Rows) -> np.ndarray:
    """Return the tier (R,) of each pair: A, B, C, or an empty string where q is not below SURE.

    A: replicated, and the intervals of the regression and of the causal effect exclude 0 on the
    same side. B: replicated, and the regression's interval does, or the weights lean that way by
    more than most of the layer's pairs do. C: by counts alone.
    """
    up = np.sign(rows["lor"])
    is_found = rows["q"] < SURE
    again = is_found & replicated(rows)
    by_regression = _excludes(rows, "beta_sel", up)
    by_effect = _excludes(rows, "causal_dp", up)
    tier = np.where(is_found, "C", "")
    tier = np.where(again & (by_regression | _leans(rows["w_map"], up)), "B", tier)
    return np.where(again & by_regression & by_effect, "A", tier)


def is_token(rows: Rows) -> np.ndarray:
    """Return which pairs (R,) token identity explains, as far as can be told.

    Little is left within token types; or part of it goes away, and what is left is no more than
    its own error allows where there is nothing. Token features that a dictionary sees with noise
    have such pairs: firings that it misses say nothing of the router.
    """
    left = np.sign(rows["lor"]) * rows["lor_token"]
    is_lost = left < CERTAIN * rows["lor_token_se"]
    share = rows["token_share"]
    return (share > TOKEN_SHARE) | ((share > PART_SHARE) & is_lost)


def reasons(rows: Rows, why_no_effect: np.ndarray) -> np.ndarray:
    """Return what is missing in each row (R,) and why; an empty string where nothing is."""
    reason = np.full(rows["lor"].size, "", dtype=object)
    for column, text in REASONS.items():
        missing = np.isnan(rows[column])
        if column == "causal_dp_lo":
            missing &= ~np.isnan(rows["causal_dp"])
        told = text + (why_no_effect[missing] if column == "causal_dp" else "")
        reason[missing] += np.where(reason[missing] == "", "", "; ") + told
    return reason


def _excludes(rows: Rows, name: str, side_R: np.ndarray) -> np.ndarray:
    """Return where an interval lies wholly on the given side (1 or -1) of 0."""
    return ((side_R > 0) & (rows[f"{name}_lo"] > 0)) | ((side_R < 0) & (rows[f"{name}_hi"] < 0))


def _leans(w_map_R: np.ndarray, side_R: np.ndarray) -> np.ndarray:
    """Return where weights point to the given side by more than the median size."""
    if np.isnan(w_map_R).all():
        return np.zeros(w_map_R.size, bool)
    return side_R * w_map_R > np.nanmedian(np.abs(w_map_R))
