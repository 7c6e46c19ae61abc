"""The features of a split as whole documents in text order, valid rows only.

Shards end anywhere and a document may begin in one and end in the next. Blocks are cut by the
documents alone, so that where shards begin and end changes no result, not even its last bit. Rows
that are not valid (position 0 of a segment, outlying norms) are left out before anything is
counted, so a row here is a place among the valid tokens of the split.

Axes: T valid tokens, D documents, F features.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from deepseemoe.experts import kernels
from deepseemoe.features.store import FeatureShard

BLOCK_TOKENS = 65_536
"""Rows of a block, one more document may stand over; many, for each block reads whole tables."""


class Block(NamedTuple):
    """Whole documents: rows `start` to `stop` of the split, and their activations (T, F)."""

    start: int
    stop: int
    features_TF: sp.csr_array


class Documents(NamedTuple):
    """Where documents lie: document d has rows `starts[d]` to `starts[d + 1]`."""

    starts: np.ndarray

    @classmethod
    def of_rows(cls, doc_ids_T: np.ndarray) -> "Documents":
        """Return the documents of rows in text order; each run of one id is a document."""
        changes = np.flatnonzero(doc_ids_T[1:] != doc_ids_T[:-1]) + 1
        return cls(np.concatenate([[0], changes, [doc_ids_T.size]]))

    @property
    def n_documents(self) -> int:
        """How many there are."""
        return self.starts.size - 1

    @property
    def lengths(self) -> np.ndarray:
        """Rows of each document (D,)."""
        return np.diff(self.starts)

    def between(self, start: int, stop: int) -> np.ndarray:
        """Return the document of each row from `start` to `stop`, both bounds of documents."""
        first, last = np.searchsorted(self.starts, [start, stop])
        return np.repeat(np.arange(first, last), self.lengths[first:last])


ShardSource = Callable[[], FeatureShard]
"""Opens a shard, as `partial(FeatureShard.open, path)`. A shard keeps what was read of it, so it is
opened anew for every pass and dropped after it: memory holds one shard."""


class DocumentStream:
    """The features of all shards of a split, in order.

    `tokens` are the token ids of all valid rows, `n_active` how many activations there are.

    Raises ValueError where there is no valid row, or where shards are of different dictionaries.
    """

    def __init__(self, sources: Sequence[ShardSource], *, block_tokens: int = BLOCK_TOKENS):
        if not sources:
            raise ValueError("no feature shards; encode the test split first (encode_features)")
        self._sources, self._block_tokens = sources, block_tokens
        shards = [source() for source in sources]
        self.d_dict = shards[0].d_dict
        for place, shard in enumerate(shards):
            if shard.d_dict != self.d_dict:
                raise ValueError(
                    f"feature shard {place}: {shard.d_dict} features, but {self.d_dict} in the "
                    "first; give shards of one dictionary"
                )
        doc_ids = [shard.doc_ids[shard.is_valid] for shard in shards]
        self.documents = Documents.of_rows(np.concatenate(doc_ids))
        self.tokens = np.concatenate([shard.token_ids[shard.is_valid] for shard in shards])
        self.n_active = sum(shard.n_active for shard in shards)
        if not self.n_tokens:
            raise ValueError(
                "no valid token in the feature shards; give the test split more tokens"
            )

    @property
    def n_tokens(self) -> int:
        """Valid tokens."""
        return int(self.documents.starts[-1])

    def blocks(self, features: np.ndarray | None = None) -> Iterator[Block]:
        """Yield all valid rows in blocks of whole documents, with all columns or `features`."""
        held, first, start, edges = None, 0, 0, iter(self._edges)
        edge = next(edges, None)
        for source in self._sources:
            shard = source()
            rows = read_rows(shard, features, shard.is_valid)
            rest = None if held is None else _rows(held, start - first, held.shape[0])
            held = sp.vstack([rest, rows], format="csr") if rest is not None else rows
            first = start
            while edge is not None and edge - first <= held.shape[0]:
                yield Block(start, edge, _rows(held, start - first, edge - first))
                start, edge = edge, next(edges, None)

    @cached_property
    def _edges(self) -> list[int]:
        """Where blocks end: at the first end of a document after each run of `block_tokens`."""
        edges, last = [], 0
        for stop in self.documents.starts[1:].tolist():
            if stop - last >= self._block_tokens or stop == self.n_tokens:
                edges.append(stop)
                last = stop
        return edges


def _rows(matrix: sp.csr_array, start: int, stop: int) -> sp.csr_array:
    """Return rows `start` to `stop` without a copy of their entries, which scipy's slices make."""
    first, last = matrix.indptr[[start, stop]]
    parts = matrix.data[first:last], matrix.indices[first:last], matrix.indptr[start : stop + 1]
    return sp.csr_array((*parts[:2], parts[2] - first), shape=(stop - start, matrix.shape[1]))


def read_rows(
    shard: FeatureShard, features: np.ndarray | None, is_kept_T: np.ndarray | None = None
) -> sp.csr_array:
    """Return rows of a shard (T, F), all or those kept, with all features or those asked for.

    Features are renumbered to their places in `features`.
    """
    rows = shard.matrix()
    place_F = np.arange(rows.shape[1], dtype=np.int32)
    if features is not None:
        place_F[:] = -1
        place_F[features] = np.arange(features.size, dtype=np.int32)
    is_kept_T = np.ones(rows.shape[0], bool) if is_kept_T is None else is_kept_T
    starts, columns, values = kernels.select(
        rows.indptr, rows.indices, rows.data, is_kept_T, place_F
    )
    width = rows.shape[1] if features is None else features.size
    return sp.csr_array((values, columns, starts), shape=(starts.size - 1, width))
