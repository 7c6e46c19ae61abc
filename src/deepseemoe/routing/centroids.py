"""Whether a router's rows are the centroids that DeepSeekMoE calls them (arXiv 2401.06066, eq. 5).

The paper's e_i is a row that was learned, not a mean. Here it is set against the mean of the inputs
u that the expert was in fact chosen for:

    cosine           cos(e_i, mean of u routed to i)
    centred_cosine   cos(e_i, mean of u routed to i - mean of all u)
    nearest          share of tokens whose first expert is the one with the nearest mean
    ari              adjusted Rand index of first experts and a k-means of u with as many clusters
    span_share       share of the variance of u in the span of the rows; chance: rank / d_model

The chance of a cosine in d_model dimensions is 0 with standard deviation 1 / sqrt(d_model). That of
`nearest` is the same with experts shuffled among tokens. Means are those of one half of the tokens,
and the nearest are looked for by the other: means of few tokens are near to these tokens.

Axes: T tokens, D d_model, E experts, K top_k.
"""

from typing import NamedTuple

import numpy as np

from deepseemoe.routing.arrays import check_routing
from deepseemoe.routing.clusters import adjusted_rand, k_means, nearest
from deepseemoe.routing.counts import count_rows
from deepseemoe.runtime.seeds import generator


class Centroids(NamedTuple):
    """What is measured of a layer; NaN for an expert that no token chose."""

    n_tokens_E: np.ndarray
    cosine_E: np.ndarray
    centred_cosine_E: np.ndarray
    chance_sd: float
    nearest: float
    chance_nearest: float
    ari: float
    span_share: float
    chance_span_share: float


def centroids(
    inputs_TD: np.ndarray, ids_TK: np.ndarray, rows_ED: np.ndarray, *, seed: int = 0
) -> Centroids:
    """Return how a router's rows (E, D) lie to the inputs (T, D) that it reads.

    `ids_TK` are sorted by falling weight. Raises ValueError where arrays do not fit together.
    """
    inputs_TD, rows_ED = (np.asarray(part, np.float64) for part in (inputs_TD, rows_ED))
    ids_TK = np.asarray(ids_TK)
    check_routing(ids_TK)
    _check_shapes(inputs_TD, ids_TK, rows_ED)
    n_experts, d_model = rows_ED.shape
    n_tokens_E, mean_ED = routed_means(inputs_TD, ids_TK, n_experts)
    mean_D = inputs_TD.mean(0)
    rank, span_share = _span(inputs_TD - mean_D, rows_ED)
    near, chance_near = _nearest_shares(inputs_TD, ids_TK, n_experts, seed)
    clusters_T = k_means(inputs_TD, n_experts, seed=seed)
    return Centroids(
        n_tokens_E,
        cosines(rows_ED, mean_ED),
        cosines(rows_ED, mean_ED - mean_D),
        d_model**-0.5,
        near,
        chance_near,
        adjusted_rand(ids_TK[:, 0], clusters_T),
        span_share,
        rank / d_model,
    )


def routed_means(
    inputs_TD: np.ndarray, ids_TK: np.ndarray, n_experts: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of each expert (E,), and the mean of their inputs (E, D), NaN of none."""
    place_T = np.arange(len(ids_TK))
    chosen_TE = count_rows(place_T, ids_TK, (len(ids_TK), n_experts)).astype(np.float64)
    n_tokens_E = chosen_TE.sum(0)
    sums_ED = chosen_TE.T @ inputs_TD
    return n_tokens_E.astype(np.int64), sums_ED / np.where(n_tokens_E > 0, n_tokens_E, np.nan)[
        :, None
    ]


def cosines(first_ED: np.ndarray, second_ED: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of one with that of the other (E,); NaN where one is 0."""
    lengths_E = np.linalg.norm(first_ED, axis=1) * np.linalg.norm(second_ED, axis=1)
    return (first_ED * second_ED).sum(1) / np.where(lengths_E > 0, lengths_E, np.nan)


def _nearest_shares(
    inputs_TD: np.ndarray, ids_TK: np.ndarray, n_experts: int, seed: int
) -> tuple[float, float]:
    """Return how often the nearest mean is that of a token's first expert, and by chance."""
    rng = generator(seed, "halves of centroids")
    is_first = rng.random(len(ids_TK)) < 0.5
    if is_first.all() or not is_first.any():
        return np.nan, np.nan
    shares = []
    for ids in (ids_TK, rng.permutation(ids_TK)):
        _, mean_ED = routed_means(inputs_TD[is_first], ids[is_first], n_experts)
        found_T = nearest(inputs_TD[~is_first], mean_ED)
        shares.append(float((found_T == ids[~is_first, 0]).mean()))
    return shares[0], shares[1]


def _span(centred_TD: np.ndarray, rows_ED: np.ndarray) -> tuple[int, float]:
    """Return the rank of the rows, and the share of variance in their span."""
    _, sizes, axes_RD = np.linalg.svd(rows_ED, full_matrices=False)
    axes_RD = axes_RD[sizes > sizes.max(initial=0) * 1e-6]
    total = (centred_TD**2).sum()
    return len(axes_RD), float(((centred_TD @ axes_RD.T) ** 2).sum() / total) if total else np.nan


def _check_shapes(inputs_TD: np.ndarray, ids_TK: np.ndarray, rows_ED: np.ndarray) -> None:
    if inputs_TD.ndim != 2 or rows_ED.ndim != 2 or inputs_TD.shape[1] != rows_ED.shape[1]:
        raise ValueError(
            f"inputs {inputs_TD.shape} and router rows {rows_ED.shape}: expected (tokens, d_model) "
            "and (experts, d_model)"
        )
    if len(ids_TK) != len(inputs_TD) or ids_TK.max() >= len(rows_ED):
        raise ValueError(
            f"ids of {len(ids_TK)} tokens up to expert {ids_TK.max()}: expected "
            f"{len(inputs_TD)} tokens and experts below {len(rows_ED)}"
        )
