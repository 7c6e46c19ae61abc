"""Counts behind the map of reads, streamed over documents; tokens x features is never dense.

What the clustered interval needs of a document are the number of tokens `g` on which a feature
fires and an expert is chosen, `f` on which the feature fires, `e` on which the expert is chosen,
and all its tokens `n`; only sums of their products over documents are kept. Every other document
belongs to the second half of the text, so that what one half shows can be looked for in the other.
Memory: sixteen tables of features x experts, of as many layers as are counted at once.

Axes: T tokens, D documents, F features, H halves, X experts of all routing layers counted.
"""

from typing import NamedTuple

import numpy as np

from deepseemoe.experts import kernels
from deepseemoe.experts.documents import Block
from deepseemoe.experts.join import Join

N_TABLES = 8
"""Tables (F, X) of float64 that the sums of a half take."""


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
    f_F: np.ndarray
    f_f_F: np.ndarray
    f_n_F: np.ndarray
    activation_F: np.ndarray
    e_X: np.ndarray
    e_e_X: np.ndarray
    e_n_X: np.ndarray
    gate_X: np.ndarray
    n: float
    n_n: float
    n_documents: float

    def layer(self, columns: slice) -> "PairSums":
        """Return the sums of the experts in some columns, without a copy."""
        pairs = {name: getattr(self, name)[:, columns] for name in self._fields[:N_TABLES]}
        experts = {name: getattr(self, name)[columns] for name in self._fields if name[-2:] == "_X"}
        return self._replace(**pairs, **experts)

    def plus(self, other: "PairSums") -> "PairSums":
        """Return the sums over the documents of both."""
        return PairSums(*(a + b for a, b in zip(self, other, strict=True)))


class Halves(NamedTuple):
    """The sums over every other document, and over the rest."""

    first: PairSums
    second: PairSums

    def layer(self, columns: slice) -> "Halves":
        """Return the sums of the experts in some columns."""
        return Halves(*(half.layer(columns) for half in self))

    @property
    def whole(self) -> PairSums:
        """The sums over all documents."""
        return self.first.plus(self.second)


def count_pairs(joined: Join, features: np.ndarray) -> PairSums:
    """Return the sums of `features` (ids, rising) with every expert."""
    return count_halves(joined, features).whole


def count_halves(joined: Join, features: np.ndarray) -> Halves:
    """Return the sums of `features` (ids, rising) with every expert, for each half of documents."""
    n_columns = joined.routing.n_columns
    tables_HFPX = np.zeros((2, features.size, N_TABLES, n_columns))
    margins_HFM = np.zeros((2, features.size, 4))
    experts = [_Margins.zeros(n_columns) for _ in range(2)]
    for block in joined.text.blocks(features):
        _add_block(joined, block, tables_HFPX, margins_HFM, experts)
    halves = (
        PairSums(*np.moveaxis(tables_FPX, 1, 0), *margins_FM.T, *margins[:4], *margins.totals)
        for tables_FPX, margins_FM, margins in zip(tables_HFPX, margins_HFM, experts, strict=True)
    )
    return Halves(*halves)


class _Margins(NamedTuple):
    """Sums of experts and of documents, of one half."""

    e_X: np.ndarray
    e_e_X: np.ndarray
    e_n_X: np.ndarray
    gate_X: np.ndarray
    n: np.ndarray
    n_n: np.ndarray
    n_documents: np.ndarray

    @classmethod
    def zeros(cls, n_columns: int) -> "_Margins":
        return cls(*np.zeros((4, n_columns)), *np.zeros((3, 1)))

    @property
    def totals(self) -> tuple[float, ...]:
        """n, n * n and the number of documents."""
        return tuple(float(total[0]) for total in self[4:])

    def add(self, counts_DX: np.ndarray, lengths_D: np.ndarray, gate_X: np.ndarray) -> None:
        """Add some documents."""
        e_DX, n_D = counts_DX.astype(np.float64), lengths_D.astype(np.float64)
        parts = e_DX.sum(0), (e_DX**2).sum(0), n_D @ e_DX, gate_X
        for total, part in zip(self, (*parts, n_D.sum(), (n_D**2).sum(), n_D.size), strict=True):
            total += part


def _add_block(
    joined: Join,
    block: Block,
    tables_HFPX: np.ndarray,
    margins_HFM: np.ndarray,
    experts: list[_Margins],
) -> None:
    text, routing = joined.text, joined.routing
    rows = slice(block.start, block.stop)
    first = int(np.searchsorted(text.documents.starts, block.start))
    document_T = text.documents.between(block.start, block.stop) - first
    lengths_D = np.bincount(document_T)
    half_D = (first + np.arange(lengths_D.size)) % 2
    columns_TS, gates_TS = routing.columns(rows), routing.gates_of(rows)
    counts_DX = np.zeros((lengths_D.size, routing.n_columns), np.int32)
    kernels.add_choices(document_T, columns_TS, counts_DX)
    firing = block.features_TF.tocsc()
    kernels.add_documents(
        firing.indptr,
        firing.indices,
        firing.data.astype(np.float64),
        document_T,
        half_D,
        counts_DX,
        lengths_D,
        columns_TS,
        gates_TS,
        tables_HFPX,
        margins_HFM,
    )
    for half, margins in enumerate(experts):
        mine_D, mine_T = half_D == half, half_D[document_T] == half
        gates = gates_TS[mine_T].ravel().astype(np.float64)
        gate_X = np.bincount(columns_TS[mine_T].ravel(), gates, routing.n_columns)
        margins.add(counts_DX[mine_D], lengths_D[mine_D], gate_X)
