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


@numba.njit(parallel=True, **COMPILED)
def add_roots(
    counts_NX: np.ndarray, rows: np.ndarray, total_FX: np.ndarray, squares_FX: np.ndarray
):
    """Add sqrt(count + 3/8), and its square, to the `rows` of two tables."""
    for place in numba.prange(rows.size):
        for x in range(counts_NX.shape[1]):
            square = counts_NX[place, x] + 0.375
            total_FX[rows[place], x] += np.sqrt(square)
            squares_FX[rows[place], x] += square


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
    margins_HFM: np.ndarray,
):
    """Add the joint counts of every document, and their products, to the sums of its half.

    g, f, e and n are on how many tokens of a document both happen, the feature fires, the expert is
    chosen, and all. P are the places named above, H the halves; M are the sums of f, f * f, f * n
    and the activation.
    """
    n_columns = counts_DX.shape[1]
    for feature in numba.prange(starts.size - 1):
        g_X, met_X = np.zeros(n_columns), np.empty(n_columns, np.int32)
        i, stop = starts[feature], starts[feature + 1]
        while i < stop:
            d, first, n_met, total = document_T[rows[i]], i, 0, 0.0
            sums_PX, margins_M = sums_HFPX[half_D[d], feature], margins_HFM[half_D[d], feature]
            while i < stop and document_T[rows[i]] == d:
                t, z = rows[i], z_I[i]
                total += z
                for s in range(columns_TS.shape[1]):
                    x = columns_TS[t, s]
                    if g_X[x] == 0:
                        met_X[n_met] = x
                        n_met += 1
                    g_X[x] += 1
                    sums_PX[ACTIVATION, x] += z
                    sums_PX[GATE, x] += gates_TS[t, s]
                i += 1
            f, n = float(i - first), float(lengths_D[d])
            margins_M[0] += f
            margins_M[1] += f * f
            margins_M[2] += f * n
            margins_M[3] += total
            for x in range(n_columns):
                sums_PX[F_E, x] += f * counts_DX[d, x]
            for place in range(n_met):
                x = met_X[place]
                g = g_X[x]
                sums_PX[BOTH, x] += g
                sums_PX[G_G, x] += g * g
                sums_PX[G_F, x] += g * f
                sums_PX[G_E, x] += g * counts_DX[d, x]
                sums_PX[G_N, x] += g * n
                g_X[x] = 0


@numba.njit(**COMPILED)
def select(
    offsets: np.ndarray,
    feature_I: np.ndarray,
    z_I: np.ndarray,
    is_kept_T: np.ndarray,
    place_F: np.ndarray,
):
    """Return the kept rows of a CSR matrix with columns renumbered to `place_F`; -1 drops one."""
    n_kept = 0
    for t in range(is_kept_T.size):
        n_kept += is_kept_T[t]
    starts, n = np.zeros(n_kept + 1, np.int64), 0
    features, z = np.empty(feature_I.size, np.int32), np.empty(feature_I.size, np.float32)
    row = 0
    for t in range(is_kept_T.size):
        if not is_kept_T[t]:
            continue
        for i in range(offsets[t], offsets[t + 1]):
            place = place_F[feature_I[i]]
            if place >= 0:
                features[n], z[n] = place, z_I[i]
                n += 1
        row += 1
        starts[row] = n
    return starts, features[:n], z[:n]


@numba.njit(parallel=True, **COMPILED)
def add_strata(
    starts: np.ndarray,
    rows: np.ndarray,
    type_I: np.ndarray,
    occurrences_V: np.ndarray,
    counts_VX: np.ndarray,
    columns_TS: np.ndarray,
    sums_FPX: np.ndarray,
):
    """Add the Mantel-Haenszel sums over token types; P are the places R, S, PR and QS.

    Of a type with N tokens, R = n11 n00 / N and S = n10 n01 / N; P and Q = 1 - P are the shares of
    its tokens in n11 and n00, and in n10 and n01. `type_I` is the token type of each entry. Types
    on which a feature never fires, or always, add nothing.
    """
    n_columns = counts_VX.shape[1]
    for feature in numba.prange(starts.size - 1):
        g_X = np.zeros(n_columns)
        sums_PX = sums_FPX[feature]
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
                n00, n10, n01 = n - m - c + n11, m - n11, c - n11
                agree, differ = n11 * n00 / n, n10 * n01 / n
                sums_PX[0, x] += agree
                sums_PX[1, x] += differ
                sums_PX[2, x] += agree * (n11 + n00) / n
                sums_PX[3, x] += differ * (n10 + n01) / n
                g_X[x] = 0


@numba.njit(parallel=True, **COMPILED)
def decode(
    starts: np.ndarray,
    features: np.ndarray,
    z_I: np.ndarray,
    weights_FX: np.ndarray,
    out_TX: np.ndarray,
):
    """Add to `out_TX` the sum of z times weights over each token's features (entries by token)."""
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
    """Add to `out_FX` the sum of z times values over each feature's tokens (entries by feature)."""
    for f in numba.prange(starts.size - 1):
        for i in range(starts[f], starts[f + 1]):
            z, row = z_I[i], values_TX[rows[i]]
            for x in range(row.size):
                out_FX[f, x] += z * row[x]
