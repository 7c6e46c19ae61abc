"""Counts behind the map of reads, streamed over documents; tokens x features is never dense.

What the clustered interval needs of a document are the number of tokens `g` on which a feature
fires and an expert is chosen, `f` on which the feature fires, `e` on which the expert is chosen,
and all its tokens `n`. Inside a block, activations sorted by feature, then row, fall into groups of
one feature and one document. One sparse product with the routing table gives `g` of every group,
and further ones add `g`, `g*g`, `g*f`, `g*e`, `g*n` up over documents. Memory: eight tables of
features x experts.

Axes: T tokens, D documents, F features, G groups (feature, document), X experts of all routing
layers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from deepseemoe.experts.documents import DocumentStream
from deepseemoe.experts.join import Join, Routing

CHUNK_BYTES = 1 << 26
"""Size of one dense (G, X) table; the groups of a single feature in a block may exceed it."""


class Firings(NamedTuple):
    """On how many tokens, and in how many documents, each feature fires."""

    tokens_F: np.ndarray
    documents_F: np.ndarray


class PairSums(NamedTuple):
    """Sums over tokens, and over documents of products of a document's counts g, f, e and n.

    `both` counts the tokens on which the feature fires and the expert is chosen, `activation` and
    `gate` add the activation z and the gate weight on them.
    """

    both: np.ndarray
    activation: np.ndarray
    gate: np.ndarray
    g_g: np.ndarray
    g_f: np.ndarray
    g_e: np.ndarray
    g_n: np.ndarray
    f_e: np.ndarray
    f_f_F: np.ndarray
    f_n_F: np.ndarray
    activation_F: np.ndarray
    e_e_X: np.ndarray
    e_n_X: np.ndarray
    gate_X: np.ndarray
    n_n: float

    @classmethod
    def zeros(cls, n_features: int, n_columns: int, n_n: float) -> "PairSums":
        """Return sums of nothing."""
        shapes = [(n_features, n_columns)] * 8 + [n_features] * 3 + [n_columns] * 3
        return cls(*map(np.zeros, shapes), n_n=n_n)


class _Groups(NamedTuple):
    """The groups of some consecutive features of a block; rows, members and sums are sparse."""

    features: slice
    activations_FT: sp.csr_array
    members_GT: sp.csr_array
    sums_FG: sp.csr_array
    documents_G: np.ndarray
    n_tokens_G: np.ndarray


def count_firings(text: DocumentStream) -> Firings:
    """Return how often and how widely every feature fires, which decides what is tested."""
    tokens, documents = np.zeros((2, text.d_dict), np.int64)
    for block in text.blocks():
        columns = block.features_TF.tocsc()
        document_T = text.documents.between(block.start, block.stop)
        opens, column = _openings(columns, document_T)
        tokens += np.diff(columns.indptr)
        documents += np.bincount(column[opens], minlength=text.d_dict)
    return Firings(tokens, documents)


def count_choices(routing: Routing) -> np.ndarray:
    """Return how many tokens chose each expert (X,)."""
    layers = range(routing.experts_TLK.shape[1])
    ids = (routing.experts_TLK[:, place].ravel() for place in layers)
    return np.concatenate([np.bincount(i, minlength=routing.n_experts) for i in ids])


def count_pairs(joined: Join, features: np.ndarray) -> PairSums:
    """Return the sums of `features` (ids, rising) with every expert."""
    text, routing = joined
    n_n = float((text.documents.lengths.astype(np.float64) ** 2).sum())
    sums = PairSums.zeros(features.size, routing.n_columns, n_n)
    for block in text.blocks(features):
        rows = slice(block.start, block.stop)
        document_T = text.documents.between(block.start, block.stop) - np.searchsorted(
            text.documents.starts, block.start
        )
        tables = routing.chosen(rows), routing.gates(rows)
        _add_block(sums, block.features_TF, document_T, *tables)
    return sums


def _add_block(
    sums: PairSums,
    features_TF: sp.csr_array,
    document_T: np.ndarray,
    chosen_TX: np.ndarray,
    gates_TX: np.ndarray,
) -> None:
    """Add a block, whose documents are numbered from 0, to the sums."""
    opens = np.flatnonzero(np.diff(document_T, prepend=-1))
    counts_DX = np.add.reduceat(chosen_TX, opens, axis=0)
    lengths_D = np.bincount(document_T).astype(np.float64)
    sums.e_e_X[:] += (counts_DX**2).sum(0)
    sums.e_n_X[:] += lengths_D @ counts_DX
    sums.gate_X[:] += gates_TX.sum(0)
    for groups in _groups(features_TF, document_T, row_bytes=chosen_TX[0].nbytes):
        _add_groups(sums, groups, chosen_TX, counts_DX, lengths_D)
        ones_FT = _with_data(groups.activations_FT, np.ones(groups.activations_FT.nnz))
        sums.activation[groups.features] += groups.activations_FT @ chosen_TX
        sums.activation_F[groups.features] += groups.activations_FT.sum(1)
        sums.gate[groups.features] += ones_FT @ gates_TX


def _add_groups(
    sums: PairSums,
    groups: _Groups,
    chosen_TX: np.ndarray,
    counts_DX: np.ndarray,
    lengths_D: np.ndarray,
) -> None:
    """Add the products of the documents' counts of some features."""
    some, f_G, n_G = groups.features, groups.n_tokens_G, lengths_D[groups.documents_G]
    by_f_FG, by_n_FG = (_with_data(groups.sums_FG, weights_G) for weights_G in (f_G, n_G))
    g_GX, e_GX = groups.members_GT @ chosen_TX, counts_DX[groups.documents_G]
    sums.both[some] += groups.sums_FG @ g_GX
    sums.g_g[some] += groups.sums_FG @ (g_GX * g_GX)
    sums.g_f[some] += by_f_FG @ g_GX
    sums.g_e[some] += groups.sums_FG @ (g_GX * e_GX)
    sums.g_n[some] += by_n_FG @ g_GX
    sums.f_e[some] += by_f_FG @ e_GX
    sums.f_f_F[some] += by_f_FG @ f_G
    sums.f_n_F[some] += by_f_FG @ n_G


def _groups(features_TF: sp.csr_array, document_T: np.ndarray, row_bytes: int) -> Iterator[_Groups]:
    """Yield the groups of a block, in runs of features whose dense table fits CHUNK_BYTES."""
    columns = features_TF.tocsc()  # sorted by feature, then row: groups are runs of entries
    n_tokens, n_features = columns.shape
    opens, column = _openings(columns, document_T)
    counts_F = np.bincount(column[opens], minlength=n_features)
    pointer = np.concatenate([[0], np.cumsum(counts_F)])
    edges = np.append(opens, columns.nnz)
    first = 0
    while first < n_features:
        most = pointer[first] + max(CHUNK_BYTES // row_bytes, 1)
        stop = max(int(np.searchsorted(pointer, most, side="right")) - 1, first + 1)
        bounds, ends = columns.indptr[first : stop + 1], edges[pointer[first] : pointer[stop] + 1]
        entries, n_groups = slice(bounds[0], bounds[-1]), ends.size - 1
        rows, z = columns.indices[entries], columns.data[entries].astype(np.float64)
        sums = pointer[first : stop + 1] - pointer[first]
        yield _Groups(
            slice(first, stop),
            _csr(z, rows, bounds - bounds[0], n_tokens),
            _csr(np.ones(z.size), rows, ends - bounds[0], n_tokens),
            _csr(np.ones(n_groups), np.arange(n_groups), sums, n_groups),
            document_T[columns.indices[ends[:-1]]],
            np.diff(ends).astype(np.float64),
        )
        first = stop


def _openings(columns: sp.csc_array, document_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where groups begin among the stored entries, and the column of every entry."""
    column = np.repeat(np.arange(columns.shape[1]), np.diff(columns.indptr))
    key = column * (document_T[-1] + 1) + document_T[columns.indices]
    return np.flatnonzero(np.diff(key, prepend=-1)), column


def _csr(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, width: int) -> sp.csr_array:
    return sp.csr_array((data, indices, indptr), shape=(indptr.size - 1, width))


def _with_data(matrix: sp.csr_array, data: np.ndarray) -> sp.csr_array:
    return _csr(data, matrix.indices, matrix.indptr, matrix.shape[1])
