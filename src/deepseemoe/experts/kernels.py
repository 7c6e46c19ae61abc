"""Compiled loops of the join: features that fire on tokens meet the experts that tokens chose.

What a token's features and experts add to a table (F, X) are as many numbers as it has active
features times chosen experts, a hundredth of the table. So these loops scatter: the firings of one
feature in turn, whose row of the table stays in the processor's cache. Features are shared out
among threads, each row is one thread's alone, and sums run in the order of tokens: the bytes do
not hang on how many threads there are.

Activations come sorted by feature (CSC): those of feature f are entries `starts[f]` to
`starts[f + 1]`, of the tokens `rows`, rising.

Axes: T tokens of a block, D its documents, F features, I active entries, S chosen experts of a
token in all layers, X experts of all layers, V token types.
"""

import numba
import numpy as np

COMPILED = {"cache": True, "nogil": True}
BOTH, ACTIVATION, GATE, G_G, G_F, G_E, G_N, F_E = range(8)
"""Places of the sums that `add_documents` adds up."""


def limit_threads(n_threads: int) -> None:
    """Let the loops use at most so many threads."""
    numba.set_num_threads(max(1, min(n_threads, numba.config.NUMBA_NUM_THREADS)))


@numba.njit(parallel=True, **COMPILED)
def add_joint(starts: np.ndarray, rows: np.ndarray, columns_TS: np.ndarray, counts_FX: np.ndarray):
    """Add to `counts_FX` on how many tokens a feature fires and an expert is chosen."""
    for f in numba.prange(starts.size - 1):
        for i in range(starts[f], starts[f + 1]):
            for s in range(columns_TS.shape[1]):
                counts_FX[f, columns_TS[rows[i], s]] += 1


@numba.njit(**COMPILED)
def add_choices(document_T: np.ndarray, columns_TS: np.ndarray, counts_DX: np.ndarray):
    """Add to `counts_DX` how many tokens of a document (or any other group) chose an expert."""
    for t in range(document_T.size):
        for s in range(columns_TS.shape[1]):
            counts_DX[document_T[t], columns_TS[t, s]] += 1


@numba.njit(parallel=True, **COMPILED)
def add_documents(
    starts: np.ndarray,
    rows: np.ndarray,
    z_I: np.ndarray,
    document_T: np.ndarray,
    half_D: np.ndarray,
    counts_DX: np.ndarray,
    lengths_D: np.ndarray,
    columns_TS: np.ndarray,
    gates_TS: np.ndarray,
    sums_HFPX: np.ndarray,
):
    """Add the joint counts of every document, and their products, to the sums of its half.

    g, f, e and n are on how many tokens of a document both happen, the feature fires, the expert is
    chosen, and all. P are the places named above, H the halves.
    """
    n_columns = counts_DX.shape[1]
    for feature in numba.prange(starts.size - 1):
        g_X = np.zeros(n_columns)
        i, stop = starts[feature], starts[feature + 1]
        while i < stop:
            d, first = document_T[rows[i]], i
            sums_PX = sums_HFPX[half_D[d], feature]
            while i < stop and document_T[rows[i]] == d:
                t, z = rows[i], z_I[i]
                for s in range(columns_TS.shape[1]):
                    x = columns_TS[t, s]
                    g_X[x] += 1
                    sums_PX[ACTIVATION, x] += z
                    sums_PX[GATE, x] += gates_TS[t, s]
                i += 1
            f, n = float(i - first), float(lengths_D[d])
            for x in range(n_columns):
                g, e = g_X[x], float(counts_DX[d, x])
                sums_PX[BOTH, x] += g
                sums_PX[G_G, x] += g * g
                sums_PX[G_F, x] += g * f
                sums_PX[G_E, x] += g * e
                sums_PX[G_N, x] += g * n
                sums_PX[F_E, x] += f * e
                g_X[x] = 0


@numba.njit(parallel=True, **COMPILED)
def add_strata(
    starts: np.ndarray,
    rows: np.ndarray,
    type_I: np.ndarray,
    occurrences_V: np.ndarray,
    counts_VX: np.ndarray,
    columns_TS: np.ndarray,
    agree_FX: np.ndarray,
    differ_FX: np.ndarray,
):
    """Add the Mantel-Haenszel sums over token types: n11 n00 / N to agree, n10 n01 / N to differ.

    `type_I` is the token type of each entry. Types on which a feature never fires add nothing.
    """
    n_columns = counts_VX.shape[1]
    for feature in numba.prange(starts.size - 1):
        g_X = np.zeros(n_columns)
        first, last = starts[feature], starts[feature + 1]
        order = np.argsort(type_I[first:last], kind="mergesort")
        place = 0
        while place < order.size:
            v, m = type_I[first + order[place]], 0
            while place < order.size and type_I[first + order[place]] == v:
                t = rows[first + order[place]]
                for s in range(columns_TS.shape[1]):
                    g_X[columns_TS[t, s]] += 1
                place += 1
                m += 1
            n = float(occurrences_V[v])
            if m == occurrences_V[v]:
                g_X[:] = 0
                continue
            for x in range(n_columns):
                n11, c = g_X[x], float(counts_VX[v, x])
                agree_FX[feature, x] += n11 * (n - m - c + n11) / n
                differ_FX[feature, x] += (m - n11) * (c - n11) / n
                g_X[x] = 0


@numba.njit(parallel=True, **COMPILED)
def decode(
    starts: np.ndarray,
    features: np.ndarray,
    z_I: np.ndarray,
    weights_FX: np.ndarray,
    out_TX: np.ndarray,
):
    """Add to `out_TX` the sum of z times the weights of each token's features (entries by token)."""
    for t in numba.prange(starts.size - 1):
        for i in range(starts[t], starts[t + 1]):
            z, row = z_I[i], weights_FX[features[i]]
            for x in range(row.size):
                out_TX[t, x] += z * row[x]


@numba.njit(parallel=True, **COMPILED)
def gather(
    starts: np.ndarray,
    rows: np.ndarray,
    z_I: np.ndarray,
    values_TX: np.ndarray,
    out_FX: np.ndarray,
):
    """Add to `out_FX` the sum of z times the values of each feature's tokens (entries by feature)."""
    for f in numba.prange(starts.size - 1):
        for i in range(starts[f], starts[f + 1]):
            z, row = z_I[i], values_TX[rows[i]]
            for x in range(row.size):
                out_FX[f, x] += z * row[x]
