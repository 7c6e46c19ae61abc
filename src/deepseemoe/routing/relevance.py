"""Which experts a task needs, from routing alone: ESFT (arXiv 2407.01906, §3.2), to its last digit.

    token score   r_e = mean over tokens of 1(e is chosen) / top_k          (equation 7)
    gate score    g_e = mean over tokens of the gate weight of e, 0 where it is not chosen   (6)

and of each layer the fewest experts, the best first, whose scores add up to `top_p`. The paper
takes the mean over a sample's tokens and then over samples, which is the same where samples are of
equal length, as its own are (`sample_relevance` otherwise). What was published with it (results/ of
deepseek-ai/ESFT) follows the first release of the code, and so does this file, down to the
arithmetic that decides ties:

- scores are added up token by token in float64, and 1/top_k is added, not counted;
- both are divided by the sum of the token scores, which is the number of tokens but for rounding,
  so gate scores of a model that does not renormalise its weights add up to less than 1;
- they are rounded to 4 decimals as Python rounds (exactly, half to even), *before* experts are
  chosen; equal scores keep the order of experts; choosing ends where the running float64 sum of
  the rounded scores is no longer below `top_p`.

The code that was released later divides by sums over layers: `legacy.relevance_over_layers`.

Axes: T tokens, L layers, K top_k, E experts.
"""

from typing import NamedTuple

import numpy as np

from deepseemoe.routing.arrays import check_labels, check_routing, count_experts

TOKEN_TOP_P, GATE_TOP_P = 0.2, 0.1
"""What the paper sums up to; the published choices are by token scores."""


class Relevance(NamedTuple):
    """Scores (L, E) of each layer and expert."""

    token_LE: np.ndarray
    gate_LE: np.ndarray


def relevance(
    ids_TLK: np.ndarray,
    weights_TLK: np.ndarray,
    *,
    n_experts: int | None = None,
    decimals: int | None = 4,
) -> Relevance:
    """Return the token and gate scores of each layer and expert.

    Tokens come in the order in which they are to be added up; weights should be float64 where
    published digits are to be met. `decimals=None` does not round. Without `n_experts` the highest
    expert that is chosen is the last. Raises ValueError where arrays do not fit together.
    """
    ids_TLK, weights_TLK = np.asarray(ids_TLK), np.asarray(weights_TLK, np.float64)
    check_routing(ids_TLK, weights_TLK, n_axes=3)
    n_experts = count_experts(ids_TLK, n_experts)
    sums = [sums_of(ids_TLK[:, n], weights_TLK[:, n], n_experts) for n in range(ids_TLK.shape[1])]
    parts = [scores(*one, decimals=decimals) for one in sums]
    return Relevance(*(np.array(layers) for layers in zip(*parts, strict=True)))


def sample_relevance(
    ids_TLK: np.ndarray,
    weights_TLK: np.ndarray,
    sample_T: np.ndarray,
    *,
    n_experts: int | None = None,
    decimals: int | None = 4,
) -> Relevance:
    """Return the scores as the paper has them: means over samples of the mean over their tokens.

    Tokens of a short sample count for more; where samples are equally long it is `relevance`, whose
    form all published results have.
    """
    ids_TLK, weights_TLK = np.asarray(ids_TLK), np.asarray(weights_TLK, np.float64)
    check_routing(ids_TLK, weights_TLK, n_axes=3)
    sample_T = check_labels(sample_T, len(ids_TLK), "sample_T")
    n_experts = count_experts(ids_TLK, n_experts)
    _, place_T, lengths = np.unique(sample_T, return_inverse=True, return_counts=True)
    share_TLK = np.broadcast_to((1 / lengths[place_T] / lengths.size)[:, None, None], ids_TLK.shape)
    parts = (share_TLK / ids_TLK.shape[2], share_TLK * weights_TLK)
    token_LE, gate_LE = (
        np.array(
            [
                np.bincount(ids_TLK[:, n].ravel(), part_TLK[:, n].ravel(), n_experts)
                for n in range(ids_TLK.shape[1])
            ]
        )
        for part_TLK in parts
    )
    return Relevance(rounded(token_LE, decimals), rounded(gate_LE, decimals))


def sums_of(ids_TK: np.ndarray, weights_TK: np.ndarray, n_experts: int) -> tuple[np.ndarray, ...]:
    """Return the sums of 1/top_k and of gate weight (E,), added up token by token."""
    ids = ids_TK.ravel().astype(np.int64)
    ones = np.full(ids.size, 1.0 / ids_TK.shape[1])
    # bincount adds in the order of its input, one float64 after the other.
    return tuple(np.bincount(ids, values, n_experts) for values in (ones, weights_TK.ravel()))


def scores(
    token_E: np.ndarray, gate_E: np.ndarray, *, decimals: int | None = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Return the two scores of the experts of a layer from the sums of `sums_of`."""
    # cumsum adds one by one, as the released code does; sum() would add in pairs.
    total = np.cumsum(token_E)[-1]
    return rounded(token_E / total, decimals), rounded(gate_E / total, decimals)


def rounded(values: np.ndarray, decimals: int | None) -> np.ndarray:
    """Return values rounded as Python does: numpy's own rounding scales first, and errs at ties."""
    if decimals is None:
        return values
    exact = [round(value, decimals) for value in values.ravel().tolist()]
    return np.array(exact).reshape(values.shape)


def select(scores_E: np.ndarray, top_p: float = TOKEN_TOP_P) -> np.ndarray:
    """Return the experts of a layer, best first, whose scores add up to `top_p`; all if none do."""
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p {top_p}: expected a share of the scores, above 0 and at most 1")
    order_E = np.argsort(-np.asarray(scores_E, np.float64), kind="stable")
    sums_E = np.cumsum(np.asarray(scores_E, np.float64)[order_E])
    return order_E[: np.searchsorted(sums_E, top_p, side="left") + 1]


def select_layers(scores_LE: np.ndarray, top_p: float = TOKEN_TOP_P) -> list[np.ndarray]:
    """Return `select` of each layer."""
    return [select(scores_E, top_p) for scores_E in scores_LE]
