"""The test text token by token, and its activations as a stream: never the whole matrix in memory.

Held are 9 bytes a token and its segments. Activations are read in runs of whole zarr chunks, so
each chunk is decoded once a pass, and a run may end in the middle of a token. What is made of the
stream must not hang on where runs or shards end.

T tokens, S segments, I activations of a run.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepseemoe.features.halves import is_explaining
from deepseemoe.features.store import CHUNK, FeatureShard
from deepseemoe.features.text import IntArray

RUN_CHUNKS = 8
"""Zarr chunks of a run: 2 M activations, 12 MB."""


class Run(NamedTuple):
    """A run of activations of one shard, in text order."""

    place: int
    """Place in the text of the shard's first token."""
    offsets: npt.NDArray[np.int64]
    """(T + 1,) where the activations of the shard's tokens begin."""
    first: int
    """Which activation of the shard the run begins with."""
    features: npt.NDArray[np.unsignedinteger]
    values: npt.NDArray[np.float32]


class Text(NamedTuple):
    """The tokens of consecutive shards."""

    token_ids: npt.NDArray[np.uint32]
    doc_ids: npt.NDArray[np.uint32]
    is_valid: npt.NDArray[np.bool_]
    segments: npt.NDArray[np.int64]
    """(S + 1,): first token of each segment, and T. A segment is what attention saw at once."""
    half_S: npt.NDArray[np.uint8]
    """0 where the segment's document explains, 1 where it is held out for scores."""

    @property
    def n_tokens(self) -> int:
        """Tokens, valid or not."""
        return len(self.token_ids)

    def segment_of(self, places: IntArray) -> IntArray:
        """Return the segment of each place."""
        return np.searchsorted(self.segments, places, side="right") - 1


class FeatureStream:
    """Consecutive feature shards as one text."""

    def __init__(self, shards: Sequence[Path], *, run_chunks: int = RUN_CHUNKS):
        """Raise ValueError where there is no shard or sizes differ."""
        if not shards:
            raise ValueError("no feature shard is given; expected those of the test split")
        self._shards = [FeatureShard.open(path) for path in shards]
        self._step = run_chunks * CHUNK
        sizes = {shard.d_dict for shard in self._shards}
        if len(sizes) > 1:
            raise ValueError(
                f"{shards[0]} and the shards beside it have d_dict {sorted(sizes)}; expected "
                "shards of one dictionary; run encode_features again"
            )
        self.d_dict = sizes.pop()
        self.n_active = sum(shard.n_active for shard in self._shards)

    @cached_property
    def text(self) -> Text:
        """The tokens, read where they are first asked for."""
        doc_ids = self._joined("doc_id")
        opens = self._joined("position") == 0
        opens[:1] = True
        opens[1:] |= doc_ids[1:] != doc_ids[:-1]
        segments = np.append(np.flatnonzero(opens), len(doc_ids))
        half_S = (~is_explaining(doc_ids[segments[:-1]])).astype(np.uint8)
        is_valid = self._joined("is_valid").astype(bool)
        return Text(self._joined("token_id"), doc_ids, is_valid, segments, half_S)

    def runs(self) -> Iterator[Run]:
        """Yield all activations once; raise ValueError where a shard is damaged."""
        place = 0
        for shard in self._shards:
            offsets = _offsets(shard)
            for first in range(0, shard.n_active, self._step):
                stop = min(first + self._step, shard.n_active)
                features = shard.read("feature", first, stop)
                if int(features.max()) >= self.d_dict:
                    raise ValueError(
                        f"{shard.label}: feature {features.max()}, but d_dict is {self.d_dict}; "
                        "run encode_features again"
                    )
                yield Run(place, offsets, first, features, shard.read("activation", first, stop))
            place += shard.n_tokens

    def _joined(self, name: str) -> npt.NDArray:
        return np.concatenate([shard.read(name) for shard in self._shards])


def _offsets(shard: FeatureShard) -> npt.NDArray[np.int64]:
    """Return where the activations of each token begin; raise ValueError where that cannot be."""
    offsets = shard.read("offsets").astype(np.int64)
    ends = len(offsets), offsets[0], offsets[-1]
    if ends != (shard.n_tokens + 1, 0, shard.n_active) or (np.diff(offsets) < 0).any():
        raise ValueError(
            f"{shard.label}: offsets do not cut {shard.n_active} activations into "
            f"{shard.n_tokens} tokens; run encode_features again"
        )
    return offsets
