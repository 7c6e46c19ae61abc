"""Rows of the score table from predictions of one router.

Axes: T tested tokens, D tested documents, E experts, B draws.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from deepseemoe.prediction.measures import (
    F1,
    NONE,
    Draws,
    Estimate,
    Predicted,
    auroc,
    by_document,
    losses,
    mean_bits,
)
from deepseemoe.prediction.sample import TEST
from deepseemoe.prediction.schemas import SCORES
from deepseemoe.prediction.scoring import BASE, OWN, SHUFFLED, UNIGRAM, Prediction, Router

NOT_FITTED = "never chosen in the documents for fitting"
NOT_TESTED = "never chosen in the tested documents"
EVERYWHERE = "chosen by every tested token"
NO_PARTNERS = "no token occurs in several documents of each part"


class Scored(NamedTuple):
    """What the rows of one predictor are summed from."""

    f1_BE: np.ndarray
    f1_E: np.ndarray
    chance_E: np.ndarray
    auroc_E: np.ndarray
    auroc_DE: np.ndarray
    base_DE: np.ndarray
    saved_DE: np.ndarray
    over_unigram_DE: np.ndarray
    given_token_DE: np.ndarray | None
    chosen_DE: np.ndarray
    n_tokens_D: np.ndarray


def rows_of(
    layer: int,
    router: Router,
    predictions: Mapping[str, Prediction],
    draws: Draws,
    *,
    sees_later: bool,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a router: for each predictor one of all experts, and one of each."""
    reasons = expert_reasons(router)
    for name, prediction in predictions.items():
        scored = score(name, router, predictions, draws)
        about = {
            "layer": layer,
            "predictor": name,
            "n_inputs": prediction.n_inputs,
            "strength": prediction.strength if np.isfinite(prediction.strength) else None,
            "sees_later": sees_later and name not in (BASE, UNIGRAM, "bigram"),
        }
        kept = np.flatnonzero([not reason for reason in reasons])
        left_out = len(reasons) - kept.size
        why = f"{left_out} of {len(reasons)} experts have no scores" if left_out else ""
        yield about | {"expert": None, "reason": why} | numbers(scored, kept, draws)
        for expert, reason in enumerate(reasons):
            own = np.array([expert] if not reason else [], int)
            yield about | {"expert": expert, "reason": reason} | numbers(scored, own, draws)
    if OWN not in predictions:
        for name in (OWN, SHUFFLED):
            yield blank(layer, name, NO_PARTNERS)


def blank(layer: int, predictor: str, reason: str) -> dict[str, Any]:
    """Return a row without numbers, which says why."""
    row = dict.fromkeys(column.name for column in SCORES)
    return row | {"layer": layer, "predictor": predictor, "reason": reason}


def expert_reasons(router: Router) -> list[str]:
    """Return why each expert has no scores, '' where it has."""
    share_E = router.chosen_TE[router.rows[TEST]].mean(0)
    return [
        NOT_FITTED if not used else NOT_TESTED if share == 0 else EVERYWHERE if share == 1 else ""
        for used, share in zip(router.is_used_E, share_E, strict=True)
    ]


def score(name: str, router: Router, predictions: Mapping[str, Prediction], draws: Draws) -> Scored:
    """Return the sums of one predictor, and of what it is compared with on the same tokens."""
    mine, n_documents = predictions[name], draws.counts_BD.shape[1]
    predicted = _predicted(router, mine)
    base, unigram = (losses(_predicted(router, predictions[n], mine)) for n in (BASE, UNIGRAM))
    own = losses(predicted)

    def summed(values_TE: np.ndarray) -> np.ndarray:
        return by_document(values_TE, predicted.documents_T, n_documents)

    given = None
    if name == OWN:
        given = summed(losses(_predicted(router, predictions[SHUFFLED])) - own)
    f1 = F1.of(predicted, router.top_k, n_documents)
    area_E, area_DE = auroc(predicted, n_documents)
    return Scored(
        f1.drawn(draws.counts_BD), f1.drawn(np.ones((1, n_documents)))[0], f1.chance_E(),
        area_E, area_DE, summed(base), summed(base - own), summed(unigram - own), given,
        f1.chosen_DE, np.bincount(predicted.documents_T, minlength=n_documents),
    )  # fmt: skip


def numbers(scored: Scored, experts: np.ndarray, draws: Draws) -> dict[str, Any]:
    """Return the columns of some experts together."""
    n_tokens = int(scored.n_tokens_D.sum())
    found: dict[str, Any] = {
        "n_tokens": n_tokens,
        "n_documents": int((scored.n_tokens_D > 0).sum()),
        "n_experts": experts.size,
        "p_e": None, "f1_chance": None, "bits_base": None,
    }  # fmt: skip
    estimates = dict.fromkeys(("f1", "auroc", "bits", "over_unigram", "given_token"), NONE)
    if experts.size and n_tokens:
        found["p_e"] = float(scored.chosen_DE[:, experts].sum() / n_tokens / experts.size)
        found["f1_chance"] = _mean(scored.chance_E[experts])
        found["bits_base"] = mean_bits(scored.base_DE, scored.n_tokens_D, experts, draws).value
        area_B = draws.counts_BD @ scored.auroc_DE[:, experts]
        f1_B = _mean(scored.f1_BE[:, experts], axis=1)
        estimates["f1"] = draws.interval(_mean(scored.f1_E[experts]), f1_B, most=1)
        estimates["auroc"] = draws.interval(
            _mean(scored.auroc_E[experts]), _mean(scored.auroc_E[experts] + area_B, axis=1), most=1
        )
        sums = (scored.saved_DE, scored.over_unigram_DE, scored.given_token_DE)
        for key, saved_DE in zip(("bits", "over_unigram", "given_token"), sums, strict=True):
            if saved_DE is not None:
                estimates[key] = mean_bits(saved_DE, scored.n_tokens_D, experts, draws)
    for key, estimate in estimates.items():
        found |= _columns(key, estimate)
    return found


def _columns(key: str, estimate: Estimate) -> dict[str, float | None]:
    names = (key, f"{key}_lo", f"{key}_hi")
    return {n: v if np.isfinite(v) else None for n, v in zip(names, estimate, strict=True)}


def _mean(values: np.ndarray, axis: int | None = None) -> Any:
    """Return the mean of what is finite; NaN where nothing is."""
    is_finite = np.isfinite(values)
    n = is_finite.sum(axis)
    return np.where(is_finite, values, 0).sum(axis) / np.where(n > 0, n, np.nan)


def _predicted(router: Router, one: Prediction, at: Prediction | None = None) -> Predicted:
    """Return a prediction with what was chosen, on its own tokens or those of another."""
    rows = (at or one).rows
    tested = router.sample.documents_T[router.rows[TEST]]
    documents = np.searchsorted(np.unique(tested), router.sample.documents_T[rows])
    return Predicted(
        one.logits_TE[np.searchsorted(one.rows, rows)], router.chosen_TE[rows], documents
    )
