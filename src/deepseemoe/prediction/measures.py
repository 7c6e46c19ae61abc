"""Scores of predicted routing, each with an interval over documents.

f1     the top_k experts by predicted log odds against those that were chosen: the mean over experts
       of 2 n(both) / (n(predicted) + n(chosen)), as RouterInterp (Lasy et al. 2026) as far as known
chance the f1 of the same number of predictions of each expert, spread over tokens at random
auroc  chance that a token that chose the expert has higher log odds than one that did not
bits   log loss saved, in bits a decision; a decision is one expert's yes or no on one token

Intervals draw documents anew while probes stay as fitted: ratios are computed again for each draw,
and AUROC by its first-order terms. Half-widths are Student's t times the draws' deviation.

Axes: T tokens, D documents, E experts, B draws.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from deepseemoe.prediction.counts import nats
from deepseemoe.runtime.seeds import generator

BITS = 1 / np.log(2)


class Estimate(NamedTuple):
    """A score and its interval; NaN where there is none."""

    value: float
    lo: float
    hi: float


NONE = Estimate(np.nan, np.nan, np.nan)


class Draws(NamedTuple):
    """How often each document is drawn, and how wide an interval is in deviations of draws."""

    counts_BD: np.ndarray
    reach: float

    @classmethod
    def of(cls, n_documents: int, *, n_draws: int, confidence: float, seed: int) -> "Draws":
        """Draw documents with replacement, again and again."""
        rng = generator(seed, "prediction", "bootstrap")
        shares = np.full(n_documents, 1 / n_documents)
        reach = float(stdtrit(max(n_documents - 1, 1), (1 + confidence) / 2))
        return cls(rng.multinomial(n_documents, shares, n_draws).astype(float), reach)

    def interval(self, value: float, drawn_B: np.ndarray, *, most: float = np.inf) -> Estimate:
        """Return a value with the interval that its draws give; `most` is the highest possible."""
        if not np.isfinite(value):
            return NONE
        reach = self.reach * float(np.nanstd(drawn_B, ddof=1))
        return Estimate(float(value), float(value - reach), float(min(value + reach, most)))


class Predicted(NamedTuple):
    """Log odds of some tokens, and what was chosen there."""

    logits_TE: np.ndarray
    chosen_TE: np.ndarray
    documents_T: np.ndarray
    """Numbers from 0 to the number of drawn documents."""

    def only(self, rows: np.ndarray) -> "Predicted":
        """Return some tokens."""
        return Predicted(*(part[rows] for part in self))


class F1(NamedTuple):
    """Sums of each document and expert behind f1."""

    both_DE: np.ndarray
    predicted_DE: np.ndarray
    chosen_DE: np.ndarray
    n_tokens: int

    @classmethod
    def of(cls, predicted: Predicted, top_k: int, n_documents: int) -> "F1":
        """Predict the top_k experts by log odds; ties go to the lower number."""
        order_TE = np.argsort(-predicted.logits_TE, axis=1, kind="stable")
        top_TE = np.zeros_like(predicted.chosen_TE)
        np.put_along_axis(top_TE, order_TE[:, :top_k], 1, axis=1)
        counted = (top_TE * predicted.chosen_TE, top_TE, predicted.chosen_TE)
        sums = (by_document(one, predicted.documents_T, n_documents) for one in counted)
        return cls(*sums, len(order_TE))

    def drawn(self, counts_BD: np.ndarray) -> np.ndarray:
        """Return the f1 of each expert for draws of documents, (B, E)."""
        both_BE, predicted_BE, chosen_BE = (counts_BD @ part for part in self[:3])
        total_BE = predicted_BE + chosen_BE
        return 2 * both_BE / np.where(total_BE > 0, total_BE, np.nan)

    def chance_E(self) -> np.ndarray:
        """Return the f1 of each expert if predictions had nothing to do with choices."""
        predicted_E, chosen_E = self.predicted_DE.sum(0), self.chosen_DE.sum(0)
        total_E = predicted_E + chosen_E
        expected_E = predicted_E * chosen_E / max(self.n_tokens, 1)
        return 2 * expected_E / np.where(total_E > 0, total_E, np.nan)


def auroc(predicted: Predicted, n_documents: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each expert's AUROC (E,), and what each document adds to its error (D, E).

    NaN for an expert that every token or none has chosen.
    """
    n_experts = predicted.logits_TE.shape[1]
    value_E, terms_DE = np.full(n_experts, np.nan), np.full((n_documents, n_experts), np.nan)
    for expert in range(n_experts):
        is_chosen = predicted.chosen_TE[:, expert] > 0
        n_yes, n_no = int(is_chosen.sum()), int((~is_chosen).sum())
        if not n_yes or not n_no:
            continue
        logits = predicted.logits_TE[:, expert]
        yes, no = np.sort(logits[is_chosen]), np.sort(logits[~is_chosen])
        below = np.where(is_chosen, _share_below(no, logits), 1 - _share_below(yes, logits))
        value_E[expert] = below[is_chosen].mean()
        terms_T = (below - value_E[expert]) / np.where(is_chosen, n_yes, n_no)
        terms_DE[:, expert] = np.bincount(predicted.documents_T, terms_T, minlength=n_documents)
    return value_E, terms_DE


def _share_below(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the share of `ordered` below each value, equal ones as half."""
    sides = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return sum(sides) / (2 * ordered.size)


def losses(predicted: Predicted) -> np.ndarray:
    """Return the log loss of each decision in bits, (T, E)."""
    return nats(predicted.logits_TE, predicted.chosen_TE) * BITS


def by_document(values_TE: np.ndarray, documents_T: np.ndarray, n_documents: int) -> np.ndarray:
    """Return sums over each document's tokens, (D, E); documents rise."""
    edges = np.searchsorted(documents_T, np.arange(n_documents + 1))
    before_TE = np.concatenate([np.zeros((1, values_TE.shape[1])), np.cumsum(values_TE, 0, float)])
    return np.diff(before_TE[edges], axis=0)


def mean_bits(
    saved_DE: np.ndarray, n_tokens_D: np.ndarray, experts: np.ndarray, draws: Draws
) -> Estimate:
    """Return bits a decision from each document's sum, over some experts."""
    saved_D, decisions_D = saved_DE[:, experts].sum(1), n_tokens_D * experts.size
    if not decisions_D.sum():
        return NONE
    drawn = draws.counts_BD @ saved_D, draws.counts_BD @ decisions_D
    ratio_B = drawn[0] / np.where(drawn[1] > 0, drawn[1], np.nan)
    return draws.interval(saved_D.sum() / decisions_D.sum(), ratio_B)
