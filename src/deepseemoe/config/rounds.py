"""Rounds: the train split in runs of shards, each cached, trained on, and taken away again.

Standard library only: the Snakefile asks for it.
"""

from collections.abc import Sequence
from typing import NamedTuple

N_ON_DISK = 2
"""Rounds whose stores exist at the same time: one is trained on while the next is captured."""


class Round(NamedTuple):
    """Some neighbouring shards of the `n_shards` of the train split."""

    number: int
    first: int
    stop: int
    n_shards: int

    @property
    def name(self) -> str:
        """How paths call it, `0003` for round 3."""
        return round_name(self.number)

    @property
    def shards(self) -> range:
        """The numbers of its shards."""
        return range(self.first, self.stop)

    def steps(self, n_steps: int) -> range:
        """Return which of a training's steps are taken on it: its share of the split."""
        return range(n_steps * self.first // self.n_shards, n_steps * self.stop // self.n_shards)


def round_name(number: int) -> str:
    """Return `0003` for round 3."""
    return f"{number:04d}"


def rounds_of(n_shards: int, round_shards: int) -> Sequence[Round]:
    """Return the rounds of a split, `round_shards` shards each; the last may have fewer."""
    starts = range(0, n_shards, round_shards)
    return [
        Round(number, first, min(first + round_shards, n_shards), n_shards)
        for number, first in enumerate(starts)
    ]
