"""The whole test text with its features: shards joined, then turned so that features are rows.

Turning is scipy's counting sort, linear in the activations; every later step works on runs of this
array.

T tokens, F features, nnz activations, R rows of a query.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from deepseemoe.features.store import FeatureShard

IntArray = npt.NDArray[np.integer]


class Runs(NamedTuple):
    """Activations sorted by feature, then place: feature f has `starts[f]:starts[f + 1]`."""

    starts: IntArray
    """(F + 1,)"""
    places: IntArray
    """(nnz,) place in the text of each activation"""
    values: npt.NDArray[np.float32]
    """(nnz,)"""

    @property
    def features(self) -> IntArray:
        """(nnz,): the feature of each activation."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


@dataclass(frozen=True)
class FeatureText:
    """Consecutive shards as one text of T tokens."""

    matrix: sparse.csr_array
    """(T, F) activations"""
    token_ids: IntArray
    doc_ids: IntArray
    positions: IntArray
    is_valid: npt.NDArray[np.bool_]

    @classmethod
    def read(cls, shards: Sequence[Path]) -> "FeatureText":
        """Join shards in the given order; raise ValueError where there is none or sizes differ."""
        if not shards:
            raise ValueError("no feature shard is given; expected those of the test split")
        opened = [FeatureShard.open(path) for path in shards]
        sizes = {shard.d_dict for shard in opened}
        if len(sizes) > 1:
            raise ValueError(
                f"{shards[0]} and the shards beside it have d_dict {sorted(sizes)}; expected "
                "shards of one dictionary; run encode_features again"
            )
        return cls(
            matrix=sparse.vstack([shard.matrix() for shard in opened], format="csr"),
            token_ids=np.concatenate([shard.token_ids for shard in opened]),
            doc_ids=np.concatenate([shard.doc_ids for shard in opened]),
            positions=np.concatenate([shard.positions for shard in opened]),
            is_valid=np.concatenate([shard.is_valid for shard in opened]),
        )

    @property
    def n_tokens(self) -> int:
        """Tokens of the text, valid or not."""
        return len(self.token_ids)

    @property
    def d_dict(self) -> int:
        """Features of the dictionary."""
        return self.matrix.shape[1]

    @cached_property
    def runs(self) -> Runs:
        """The activations by feature."""
        turned = self.matrix.tocsc()
        return Runs(turned.indptr.astype(np.int64), turned.indices, turned.data)

    @cached_property
    def segments(self) -> IntArray:
        """(S + 1,): first token of each segment, and T. A segment is what attention saw at once."""
        opens = self.positions == 0
        opens[:1] = True
        opens[1:] |= self.doc_ids[1:] != self.doc_ids[:-1]
        return np.append(np.flatnonzero(opens), self.n_tokens)

    @cached_property
    def segment_of(self) -> IntArray:
        """(T,): the segment of each token."""
        return np.repeat(np.arange(len(self.segments) - 1), np.diff(self.segments))

    def entries_between(
        self, features: IntArray, first: IntArray, last: IntArray
    ) -> tuple[IntArray, IntArray]:
        """Return, for each of R rows, which entries of `runs` lie in places first … last, ends in.

        Row r's entries are `start[r]:stop[r]`; an empty range says that the feature is off there.
        """
        rows = np.asarray(features, np.int64) * self.n_tokens
        return (
            np.searchsorted(self._keys, rows + first, side="left"),
            np.searchsorted(self._keys, rows + last, side="right"),
        )

    @cached_property
    def _keys(self) -> npt.NDArray[np.int64]:
        """(nnz,): rising numbers that name (feature, place)."""
        return self.runs.features.astype(np.int64) * self.n_tokens + self.runs.places
