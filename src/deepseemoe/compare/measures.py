"""Specialisation in numbers that compare routers of any number of experts and any top_k.

A token chooses top_k of n_experts; q = share / top_k is what one of its choices falls on, so q adds
up to 1 over experts. Three rules make numbers comparable:

* what is told is a *share*: of what could be known of the domain (`information`), or of the
  experts, weighted by load, that knowing the token or feature rules out (`concentration`). Where
  one is sent to its tenth of the experts it is .9, whether these are 1 of 10 or 12 of 120;
* each is taken against the router's own load, so that busy experts are no specialisation;
* what counting alone adds is taken off, so that a router that does not look is at 0 for every
  n_experts and top_k. The plain estimate is not: it grows with n_experts / n_tokens.

Concentration is of order 2 (inverse Simpson), as E[q²] = (E q)² + variance corrects it exactly,
also where counts are few; entropies can be corrected to first order only, which does for domains.

Axes: C domains, V token types, F features, E experts, B draws.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def load_concentration(q_E: Floats) -> float:
    """Return the share of experts that lie idle: 1 - exp(entropy) / n_experts.

    0 is a uniform load, 1 - 1 / n_experts one expert for all choices.
    """
    return float(1 - np.exp(-_plogp(q_E).sum()) / q_E.size)


def ceiling(weight_C: Floats, n_experts: int, top_k: int) -> float:
    """Return the most that a choice can tell of the domain, in nats: min(H(domain), log(E / k)).

    A domain's choices fall on top_k experts at least, so log(top_k) of log(n_experts) stay unknown.
    """
    return float(min(-_plogp(weight_C).sum(), np.log(n_experts / top_k)))


def information(q_CE: Floats, weight_C: Floats) -> Floats:
    """Return I(domain; choice) in nats, not corrected; a batch of q (…, C, E) gives as many.

    It is also the Jensen-Shannon divergence of the domains with these weights.
    """
    mean_E = np.einsum("c,...ce->...e", weight_C, q_CE)
    return (_plogp(q_CE).sum(-1) * weight_C).sum(-1) - _plogp(mean_E).sum(-1)


def information_noise(q_CE: Floats, variance_CE: Floats, weight_C: Floats) -> float:
    """Return what errors of q add to `information` on average, to first order (Miller-Madow).

    With variances from documents drawn again it holds for text, where tokens are not independent.
    """
    mean_E = weight_C @ q_CE
    within = (weight_C[:, None] * _ratio(variance_CE, q_CE)).sum()
    return float(within - _ratio(weight_C**2 @ variance_CE, mean_E).sum()) / 2


def order2(q_XE: Floats, variance_XE: Floats, load_E: Floats) -> Floats:
    """Return sum of q² / load over experts without what errors of q add (X,); 1 is chance."""
    return _ratio(q_XE**2 - variance_XE, load_E).sum(-1)


def concentration(order2_X: Floats) -> Floats:
    """Return the share of experts, weighted by load, that is ruled out; 0 is chance.

    Below 0 where noise is more than what there is to see.
    """
    return 1 - 1 / np.maximum(order2_X, 0.5)


def token_order2(n_both_VE: Floats, n_V: Floats, load_E: Floats, top_k: int) -> Floats:
    """Return `order2` of each token type from counts, unbiased also where these are few.

    q² is estimated from pairs of different occurrences (a U-statistic), so that the choices of one
    occurrence, which exclude each other, are never paired. `n_V` must be 2 or more.
    """
    pairs_V = n_V * (n_V - 1) * top_k**2
    return _ratio(n_both_VE**2 - n_both_VE, load_E).sum(-1) / pairs_V


def _plogp(p: Floats) -> Floats:
    return p * np.log(np.where(p > 0, p, 1))


def _ratio(over: Floats, under: Floats) -> Floats:
    """Return over / under, 0 where `under` is 0."""
    under = np.broadcast_to(under, np.shape(over))
    return np.divide(over, under, np.zeros(np.shape(over)), where=under > 0)
