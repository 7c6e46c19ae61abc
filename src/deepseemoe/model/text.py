"""Batches of packed text for training NanoMoE; each one depends on the seed and its number only.

Axes: S sequences, N sequence length.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepseemoe.corpus.shards import read_shard
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.runtime.seeds import generator


class PackedText:
    """All sequences of some shards in memory (8 bytes a token), in a new order each pass."""

    def __init__(self, shards: Sequence[Path], *, seed: int):
        if not shards:
            raise ValueError("no token shards to train on; expected at least one")
        parts = [read_shard(path) for path in shards]
        lengths = sorted({part.token_ids_SN.shape[1] for part in parts})
        if len(lengths) > 1:
            raise ValueError(f"shards have sequences of {lengths} tokens, expected one length")
        self.token_ids_SN = np.concatenate([part.token_ids_SN for part in parts])
        self.positions_SN = np.concatenate([part.positions_SN for part in parts])
        self.seed = seed

    @property
    def sequence_length(self) -> int:
        """Tokens of a sequence."""
        return self.token_ids_SN.shape[1]

    def batch(self, number: int, *, n_sequences: int) -> TokenBatch:
        """Return batch `number`, counted from 0 over all passes; one may straddle two passes."""
        places = range(number * n_sequences, (number + 1) * n_sequences)
        n_rows = len(self.token_ids_SN)
        rows = [_pass_order(self.seed, place // n_rows, n_rows)[place % n_rows] for place in places]
        return TokenBatch.from_arrays(self.token_ids_SN[rows], self.positions_SN[rows])

    def digest(self) -> str:
        """Return a name of the text's content."""
        content = hashlib.sha256(np.ascontiguousarray(self.token_ids_SN))
        content.update(np.ascontiguousarray(self.positions_SN))
        return content.hexdigest()[:16]


@lru_cache(maxsize=2)
def _pass_order(seed: int, number: int, n_rows: int) -> NDArray[np.int64]:
    """Return the order of the rows in a pass over the text."""
    return generator(seed, "train model", "pass", number).permutation(n_rows)
