"""Whether a map finds again what experts were made for, where that is known (FlexOlmo).

For every expert with a known domain there is a score for every domain: how much more of the
domain's tokens it takes than of all (log2 lift), or the mean log odds ratio with which features of
the domain call it. `accuracy` is the share of experts whose first domain is their own, `enrichment`
the score in the own domain less the mean of the others. Chance and p come from giving the experts'
domains to one another: all orders of up to 8 experts, drawn ones of more. Layers share an order.

Axes: L layers, E experts with a known domain, C their domains, B draws, P permutations.
"""

import math
from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

import numpy as np

MAX_EXACT = 8
"""8! = 40,320 orders."""


class Recovered(NamedTuple):
    """One measure: a value for each layer and their mean, the last."""

    value_L: np.ndarray
    lo_L: np.ndarray
    hi_L: np.ndarray
    chance_L: np.ndarray
    p_L: np.ndarray
    n_permutations: int


def recover(
    score_LEC: np.ndarray,
    own_E: np.ndarray,
    draws_BLEC: np.ndarray,
    *,
    n_permutations: int,
    rng: np.random.Generator,
) -> dict[str, Recovered]:
    """Return accuracy and enrichment; `own_E` is the index of each expert's domain.

    `draws_BLEC` are the scores of documents, or features, drawn again. NaN is the score of a domain
    that was not seen: it is never first, and counts in no mean.
    """
    orders_PE = _orders(own_E, n_permutations, rng)
    found = {}
    for name, measure in {"accuracy": _hits, "enrichment": _enrichment}.items():
        value_LEC, draw_BLEC = measure(score_LEC), measure(draws_BLEC)
        experts = np.arange(own_E.size)
        value_L = _with_mean(_mean(value_LEC[:, experts, own_E]))
        under_PL = _with_mean(_mean(np.stack([value_LEC[:, experts, o] for o in orders_PE])))
        draws_BL = _with_mean(_mean(draw_BLEC[:, :, experts, own_E]))
        lo_L, hi_L = np.quantile(draws_BL, (0.025, 0.975), axis=0)
        p_L = (under_PL >= value_L - 1e-9).mean(0)
        # The mean over all orders is 0 or 1 / n up to rounding; tables need not show 1e-16.
        chance_L = under_PL.mean(0).round(12)
        found[name] = Recovered(value_L, lo_L, hi_L, chance_L, p_L, len(orders_PE))
    return found


def _hits(score_XEC: np.ndarray) -> np.ndarray:
    """Return 1 where a domain is the first of its expert; firsts that tie share it."""
    filled = np.where(np.isnan(score_XEC), -np.inf, score_XEC)
    best = filled.max(-1, keepdims=True)
    is_first = (filled == best) & np.isfinite(best)
    return is_first / np.maximum(is_first.sum(-1, keepdims=True), 1)


def _enrichment(score_XEC: np.ndarray) -> np.ndarray:
    """Return each score less the mean of the expert's scores in the other domains."""
    n_seen = np.isfinite(score_XEC).sum(-1, keepdims=True)
    rest = np.nansum(score_XEC, -1, keepdims=True) - score_XEC
    return np.where(n_seen > 1, score_XEC - rest / np.maximum(n_seen - 1, 1), np.nan)


def _orders(own_E: np.ndarray, n_drawn: int, rng: np.random.Generator) -> np.ndarray:
    """Return orders of the experts' domains (P, E), the given one first."""
    if own_E.size <= MAX_EXACT and math.factorial(own_E.size) <= max(n_drawn, 40_320):
        return np.array(list(permutations(own_E.tolist())))
    return np.stack([own_E, *(rng.permutation(own_E) for _ in range(n_drawn - 1))])


def _mean(values_XE: np.ndarray) -> np.ndarray:
    """Return the mean over experts that have a value; NaN where none has."""
    is_known = np.isfinite(values_XE)
    total = np.where(is_known, values_XE, 0).sum(-1)
    n_known = is_known.sum(-1)
    return np.divide(total, n_known, np.full(total.shape, np.nan), where=n_known > 0)


def _with_mean(values_XL: np.ndarray) -> np.ndarray:
    """Return values with their mean over layers behind them."""
    return np.concatenate([values_XL, _mean(values_XL)[..., None]], -1)


def lines(recovered: Recovered, layers: list[int]) -> Iterator[tuple[int | None, dict[str, float]]]:
    """Yield the columns of each layer, then of the mean over layers; NaN becomes None."""
    columns = ("value", "lo", "hi", "chance", "p_perm")
    for place, layer in enumerate([*layers, None]):
        numbers = (float(array[place]) for array in recovered[:5])
        yield layer, dict(zip(columns, (None if n != n else n for n in numbers), strict=True))
