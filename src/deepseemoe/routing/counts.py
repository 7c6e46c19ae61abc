"""Counting chosen experts together: compiled loops that add one for each pair or triple of a token.

A dense (T, E) table costs E² a token where these cost K². Counts are whole numbers, so the order of
tokens changes nothing.

Axes: T tokens, K top_k, G groups of documents, E experts.
"""

import numba
import numpy as np


def count_pairs(
    first_TK: np.ndarray,
    second_TK: np.ndarray,
    n_experts: int,
    *,
    group_T: np.ndarray | None = None,
    n_groups: int = 1,
) -> np.ndarray:
    """Return how many tokens of each group choose both a in `first` and b in `second` (G, E, E).

    With one array twice this is co-activation, with the tokens of each expert on the diagonal.
    """
    joint_GEE = np.zeros((n_groups, n_experts, n_experts), np.int64)
    if group_T is None:
        group_T = np.zeros(len(first_TK), np.int32)
    ids = _below(n_experts, first_TK), _below(n_experts, second_TK)
    _add_pairs(*ids, _below(n_groups, group_T, "groups"), joint_GEE)
    return joint_GEE


def count_triples(
    first_TK: np.ndarray, second_TK: np.ndarray, third_TK: np.ndarray, n_experts: int
) -> np.ndarray:
    """Return how many tokens choose a, then b, then c at three layers (E, E, E)."""
    joint_EEE = np.zeros((n_experts,) * 3, np.int64)
    ids = (_below(n_experts, layer_TK) for layer_TK in (first_TK, second_TK, third_TK))
    _add_triples(*ids, joint_EEE)
    return joint_EEE


def count_rows(
    row_T: np.ndarray,
    ids_TK: np.ndarray,
    shape: tuple[int, int],
    weight_T: np.ndarray | None = None,
) -> np.ndarray:
    """Return how often each row number meets each expert (shape); rows below 0 are left out.

    `weight_T` says how often each token is counted.
    """
    counts_RE = np.zeros(shape, np.int64)
    if weight_T is None:
        weight_T = np.ones(len(row_T), np.int32)
    rows_T = _below(shape[0], row_T, "rows", lowest=-1)
    _add_rows(rows_T, _below(shape[1], ids_TK), np.ascontiguousarray(weight_T, np.int32), counts_RE)
    return counts_RE


def _below(limit: int, values: np.ndarray, name: str = "experts", *, lowest: int = 0) -> np.ndarray:
    """Return values in the one type that is compiled for; compiled loops check no bounds."""
    low, high = (int(end) for end in (values.min(initial=0), values.max(initial=0)))
    if low < lowest or high >= max(limit, 1):
        raise ValueError(f"found {name} {low} to {high}, expected {lowest} to {limit - 1}")
    return np.ascontiguousarray(values, np.int32)


@numba.njit(cache=True, nogil=True)
def _add_pairs(first_TK, second_TK, group_T, joint_GEE):
    for t in range(first_TK.shape[0]):
        joint_EE = joint_GEE[group_T[t]]
        for a in first_TK[t]:
            for b in second_TK[t]:
                joint_EE[a, b] += 1


@numba.njit(cache=True, nogil=True)
def _add_triples(first_TK, second_TK, third_TK, joint_EEE):
    for t in range(first_TK.shape[0]):
        for a in first_TK[t]:
            for b in second_TK[t]:
                for c in third_TK[t]:
                    joint_EEE[a, b, c] += 1


@numba.njit(cache=True, nogil=True)
def _add_rows(row_T, ids_TK, weight_T, counts_RE):
    for t in range(row_T.shape[0]):
        if row_T[t] >= 0 and weight_T[t] > 0:
            for expert in ids_TK[t]:
                counts_RE[row_T[t], expert] += weight_T[t]
