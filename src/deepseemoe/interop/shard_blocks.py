"""Feature shards read a run of tokens at a time, so that memory does not grow with a shard."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepseemoe.features.store import FeatureShard

BLOCK = 1 << 16
"""Tokens that are read at once."""


class Block(NamedTuple):
    """Consecutive tokens of a shard, T of them, and their n activations."""

    place: int
    """of the first token in its shard"""
    token_ids: npt.NDArray[np.uint32]
    """(T,)"""
    tokens: npt.NDArray[np.int64]
    """(n,) place in the shard of the token of each activation, rising"""
    features: npt.NDArray[np.unsignedinteger]
    """(n,) rising within a token"""
    values: npt.NDArray[np.float32]
    """(n,)"""

    @property
    def n_tokens(self) -> int:
        """T."""
        return len(self.token_ids)


def blocks(shard: FeatureShard, n_tokens: int = BLOCK) -> Iterator[Block]:
    """Yield a shard as runs of `n_tokens` tokens; raise ValueError where it is damaged."""
    offsets = shard.read("offsets").astype(np.int64)
    for place in range(0, shard.n_tokens, n_tokens):
        stop = min(place + n_tokens, shard.n_tokens)
        own = offsets[place : stop + 1]
        first, last = int(own[0]), int(own[-1])
        yield Block(
            place,
            shard.read("token_id", place, stop),
            np.repeat(np.arange(place, stop), np.diff(own)),
            shard.read("feature", first, last),
            shard.read("activation", first, last),
        )
