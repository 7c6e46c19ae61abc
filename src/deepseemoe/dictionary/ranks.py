"""Processes that train one dictionary: what they tell one another in a step.

Each rank owns some features, with their weights and moments, and all see the same batch. What goes
between them: the partial reconstructions (`sum`), what an exact selection over all features takes
(`gather`), and a few numbers. Sums come out the same to the bit on every rank, so what each
computes of them alone (errors, the decoder bias) stays the same everywhere.

`ALONE` stands for all of it where one process has every feature: it calls nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Gathered(NamedTuple):
    """Values of all ranks, in order of ranks, and where this rank's begin."""

    values: Tensor
    first: int


class Ranks(Protocol):
    """One process among those that train a dictionary."""

    rank: int
    n_ranks: int

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks, in the tensor itself."""
        ...

    def total(self, number: float) -> float:
        """Return the sum of a number over ranks."""
        ...

    def least(self, number: float) -> float:
        """Return the smallest of a number over ranks."""
        ...

    def places(self, features: Tensor) -> Tensor:
        """Return the numbers in the whole dictionary of features that are this rank's."""
        ...

    def gather(self, values: Tensor) -> Gathered:
        """Return one-dimensional values of all ranks, however many each has."""
        ...

    def wait(self) -> None:
        """Return when all ranks are here."""
        ...


class Alone:
    """The only process."""

    rank = 0
    n_ranks = 1

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the tensor."""
        return tensor

    def total(self, number: float) -> float:
        """Return the number."""
        return number

    def least(self, number: float) -> float:
        """Return the number."""
        return number

    def places(self, features: Tensor) -> Tensor:
        """Return the features."""
        return features

    def gather(self, values: Tensor) -> Gathered:
        """Return the values."""
        return Gathered(values, 0)

    def wait(self) -> None:
        """Return."""


ALONE = Alone()


class Group:
    """A rank of torch's default process group.

    `features_F` are the numbers in the whole dictionary of this rank's features, rising.
    """

    def __init__(self, features_F: Tensor) -> None:
        self.rank, self.n_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self._features_F = features_F

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks, in the tensor itself."""
        torch.distributed.all_reduce(tensor)
        return tensor

    def total(self, number: float) -> float:
        """Return the sum of a number over ranks."""
        return float(self.sum(self._number(number)))

    def least(self, number: float) -> float:
        """Return the smallest of a number over ranks."""
        value = self._number(number)
        torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MIN)
        return float(value)

    def places(self, features: Tensor) -> Tensor:
        """Return the numbers in the whole dictionary of features that are this rank's."""
        return self._features_F[features]

    def gather(self, values: Tensor) -> Gathered:
        """Return one-dimensional values of all ranks, however many each has."""
        sizes = self._sizes(len(values))
        padded = values.new_zeros(max(sizes))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in sizes]
        torch.distributed.all_gather(parts, padded)
        every = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
        return Gathered(every, sum(sizes[: self.rank]))

    def wait(self) -> None:
        """Return when all ranks are here."""
        self.total(0.0)

    def _sizes(self, size: int) -> Sequence[int]:
        mine = torch.tensor([size], device=self._features_F.device)
        every = [torch.empty_like(mine) for _ in range(self.n_ranks)]
        torch.distributed.all_gather(every, mine)
        return torch.cat(every).tolist()

    def _number(self, number: float) -> Tensor:
        return torch.tensor(number, dtype=torch.float64, device=self._features_F.device)
