"""The train split as an endless stream of sequences, in a new random order each pass.

Shards come in random order, and their sequences in random order, so one shard is in memory at a
time (8 bytes a token) however large the split is; documents were shuffled when they were packed.

Axes: S sequences, N sequence length.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepseemoe.corpus.shards import read_shard, shard_shape
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.runtime.seeds import generator


class Pass(NamedTuple):
    """One pass over the split: the shards in order, and how many sequences come before each."""

    shards: np.ndarray
    before: np.ndarray


class ShuffledText:
    """Sequences by their number in the stream; the same seed and number give the same sequence."""

    def __init__(self, shards: Sequence[Path], *, seed: int):
        """Look at the sizes only; raise ValueError without shards or with unequal sequences."""
        if not shards:
            raise ValueError("no token shards to train on; expected at least one")
        shapes = [shard_shape(path) for path in shards]
        lengths = sorted({length for _, length in shapes})
        if len(lengths) > 1:
            raise ValueError(f"shards have sequences of {lengths} tokens, expected one length")
        self.sequence_length = lengths[0]
        self.n_sequences = sum(n_sequences for n_sequences, _ in shapes)
        self._sizes = np.array([n_sequences for n_sequences, _ in shapes])
        self._seed = seed
        self._pass = lru_cache(maxsize=2)(self._order_of)
        self._read = lru_cache(maxsize=1)(lambda index: read_shard(shards[index]))

    def read(self, first: int, n_sequences: int) -> TokenBatch:
        """Return `n_sequences` sequences from number `first` of the stream on."""
        ids, positions, taken = [], [], 0
        while taken < n_sequences:
            index, rows = self._rows(first + taken, n_sequences - taken)
            shard = self._read(index)
            ids.append(shard.token_ids_SN[rows])
            positions.append(shard.positions_SN[rows])
            taken += len(rows)
        return TokenBatch.from_arrays(np.concatenate(ids), np.concatenate(positions))

    def _rows(self, number: int, n_most: int) -> tuple[int, np.ndarray]:
        """Return the shard that holds a sequence, and the rows of it from there on."""
        turn, place = divmod(number, self.n_sequences)
        shards, before = self._pass(turn)
        at = int(np.searchsorted(before, place, side="right")) - 1
        index = int(shards[at])
        order = generator(self._seed, "live", "sequences", turn, index).permutation(
            self._sizes[index]
        )
        return index, order[place - before[at] :][:n_most]

    def _order_of(self, turn: int) -> Pass:
        order = generator(self._seed, "live", "shards", turn).permutation(len(self._sizes))
        return Pass(order, np.concatenate([[0], np.cumsum(self._sizes[order])[:-1]]))
