"""What co-activation chance makes: tokens that take top_k experts of given load and nothing else.

Experts of one token are distinct, so even routers that know no pairs choose two experts together
less often than the product of their shares. The chance line is the distribution of sets of top_k
experts that has the most entropy among those with the observed loads (conditional Poisson sampling,
Chen, Dempster and Liu 1994): P(set) is proportional to the product of the odds of its experts.
With equal loads its lift is (top_k - 1) / top_k * E / (E - 1).

Axes: E experts, K top_k.
"""

import numpy as np

MAX_STEPS, TOLERANCE = 500, 1e-10


def chance_pairs(share_E: np.ndarray) -> np.ndarray:
    """Return the chance of choosing both of two experts (E, E), given the share of each.

    Shares add up to top_k, a whole number. The diagonal is the shares themselves. Experts that all
    tokens choose go with the others by their shares; ones that none chooses go with no other.
    """
    share_E = np.asarray(share_E, np.float64)
    is_always, is_never = share_E > 1 - 1e-9, share_E < 1e-12
    free = np.flatnonzero(~is_always & ~is_never)
    pairs_EE = np.outer(share_E, share_E)
    top_k = round(float(share_E[free].sum()))
    if free.size:
        pairs_EE[np.ix_(free, free)] = _free_pairs(share_E[free], top_k)
    np.fill_diagonal(pairs_EE, share_E)
    return pairs_EE


def _free_pairs(share_E: np.ndarray, top_k: int) -> np.ndarray:
    odds_E = _odds(share_E, top_k)
    if top_k < 2:
        return np.zeros((share_E.size, share_E.size))
    whole_K = _sums(odds_E, top_k)
    # Sums over sets without two experts, of all pairs at once: e_r(-i-j) for r up to top_k - 2.
    without_EEK = np.zeros((share_E.size, share_E.size, top_k - 1))
    without_EEK[..., 0] = 1
    for expert, odds in enumerate(odds_E):
        others = np.arange(share_E.size) != expert
        part = np.ix_(others, others)
        block = without_EEK[part]
        block[..., 1:] += odds * block[..., :-1].copy()
        without_EEK[part] = block
    return np.outer(odds_E, odds_E) * without_EEK[..., -1] / whole_K[-1]


def _odds(share_E: np.ndarray, top_k: int) -> np.ndarray:
    """Return the odds that give experts their shares in sets of `top_k`, by Chen's iteration."""
    odds_E = share_E / (1 - share_E)
    for _ in range(MAX_STEPS):
        # Kept at a geometric mean of 1, which changes no set's chance, so that nothing overflows.
        odds_E = odds_E / np.exp(np.log(odds_E).mean())
        without_E = _sums_without_each(odds_E, top_k)
        found_E = odds_E * without_E / _sums(odds_E, top_k)[-1]
        if np.abs(found_E - share_E).max() < TOLERANCE:
            break
        odds_E = odds_E * (share_E / (1 - share_E)) / (found_E / (1 - found_E))
    return odds_E


def _sums(odds_E: np.ndarray, degree: int) -> np.ndarray:
    """Return the elementary symmetric sums e_0 to e_degree of odds."""
    sums_K = np.zeros(degree + 1)
    sums_K[0] = 1
    for odds in odds_E:
        sums_K[1:] += odds * sums_K[:-1].copy()
    return sums_K


def _sums_without_each(odds_E: np.ndarray, top_k: int) -> np.ndarray:
    """Return e_(top_k - 1) of all odds but each one (E,)."""
    sums_EK = np.zeros((odds_E.size, top_k))
    sums_EK[:, 0] = 1
    for expert, odds in enumerate(odds_E):
        others = np.arange(odds_E.size) != expert
        block = sums_EK[others]
        block[:, 1:] += odds * block[:, :-1].copy()
        sums_EK[others] = block
    return sums_EK[:, -1]
