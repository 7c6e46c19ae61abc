"""A dictionary whose features are spread over ranks: who owns which.

Features are sharded, not data: a rank owns a run of rows of every part's encoder and decoder, the
chunk that `DTensor` gives it with `Shard(0)`, and every feature has one owner. What all features
share, the decoder bias and skips, each rank has whole.

Axes: F features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deepseemoe.dictionary.layout import Part
from deepseemoe.dictionary.ranks import ALONE, Group, Ranks
from deepseemoe.dictionary.weights import Weights


class Shard(NamedTuple):
    """What one of `n_ranks` owns of a dictionary of `whole` parts."""

    whole: tuple[Part, ...]
    rank: int = 0
    n_ranks: int = 1

    @property
    def parts(self) -> tuple[Part, ...]:
        """The features of this rank, part by part, counted from its first."""
        sizes = [len(self.rows(part.n_features)) for part in self.whole]
        stops = [sum(sizes[: place + 1]) for place in range(len(sizes))]
        return tuple(
            part._replace(first=stop - size, stop=stop)
            for part, size, stop in zip(self.whole, sizes, stops, strict=True)
        )

    @property
    def features_F(self) -> Tensor:
        """The numbers in the whole dictionary of this rank's features, rising."""
        runs = [self.rows(part.n_features) for part in self.whole]
        return torch.cat(
            [
                part.first + torch.arange(run.start, run.stop)
                for part, run in zip(self.whole, runs, strict=True)
            ]
        )

    def rows(self, n_features: int) -> range:
        """Return which rows this rank owns of a part of `n_features`."""
        return rows_of(n_features, self.rank, self.n_ranks)

    def ranks(self, device: str | torch.device) -> Ranks:
        """Return this rank among the others, in torch's default process group."""
        return ALONE if self.n_ranks == 1 else Group(self.features_F.to(device))

    def segments(self, weights: Weights) -> list[tuple[int, ...] | None]:
        """Return, for each of `weights.tensors()`, the sizes of the parts whose rows it stacks.

        None for those that every rank has whole.
        """
        sizes = tuple(part.n_features for part in self.whole)
        each = [(size,) for size in sizes]
        common = [None] * (1 + len(weights.skips))
        thresholds = [] if weights.thresholds is None else [sizes]
        return [*each, sizes, *each, *common, *thresholds]


def rows_of(n_features: int, rank: int, n_ranks: int) -> range:
    """Return which of a part's features a rank owns: torch.chunk's cut, as DTensor's `Shard(0)`."""
    size = -(-n_features // n_ranks)
    return range(min(rank * size, n_features), min((rank + 1) * size, n_features))


def shard_of(whole: Sequence[Part], rank: int, n_ranks: int) -> Shard:
    """Return a rank's shard; raise ValueError where some rank would have no feature of a part."""
    fewest = min(part.n_features for part in whole)
    if not rows_of(fewest, n_ranks - 1, n_ranks):
        raise ValueError(
            f"{n_ranks} processes are too many for a part of {fewest} features; each takes one at "
            "least: lower devices.dictionary, or raise d_dict"
        )
    return Shard(tuple(whole), rank, n_ranks)
