"""Sparse activations of features, and the few products that training and decoding need of them.

Each product touches active entries only. On CPUs the forms below were the fastest of those that
torch offers, by 2 to 50 times: `embedding_bag` for sums of rows, `sampled_addmm` for dot products.
GPUs have kernels of their own for both (`kernels`), whose twins these forms are.

Axes: T tokens, F features, W columns; `nnz` active entries, sorted by token, then by feature.
"""

import warnings
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from deepseemoe.dictionary import kernels


class Codes(NamedTuple):
    """Active features of T tokens: token t has the entries `offsets[t]` to `offsets[t + 1]`.

    Arrays on the host, ready to store; `scipy.sparse.csr_array((values, features, offsets))`.
    """

    offsets: NDArray[np.int64]
    """(T + 1,)"""
    features: NDArray[np.int64]
    """(nnz,), rising within a token"""
    values: NDArray[np.float32]
    """(nnz,), the activations z, above 0"""


class Entries(NamedTuple):
    """Active entries of a (T, F) matrix as coordinates, sorted by token, then by feature."""

    tokens: Tensor
    features: Tensor
    values: Tensor

    def within(self, first: int, stop: int) -> "Entries":
        """Return the entries of features `first` to `stop` - 1, counted from `first`."""
        mine = (self.features >= first) & (self.features < stop)
        return Entries(self.tokens[mine], self.features[mine] - first, self.values[mine])


def offsets_of(groups: Tensor, n_groups: int) -> Tensor:
    """Return where each group starts in a sorted list of group numbers, (n_groups + 1,) int64."""
    offsets = torch.zeros(n_groups + 1, dtype=torch.int64, device=groups.device)
    torch.cumsum(torch.bincount(groups, minlength=n_groups), 0, out=offsets[1:])
    return offsets


def weighted_sums(table_NW: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Return, for each group of `offsets`, the sum of its `weights` times rows of the table."""
    if fast := kernels.for_device(table_NW.device):
        return fast.weighted_sums(table_NW, rows, offsets, weights)
    return embedding_bag(
        rows, table_NW, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def dot_products(left_TW: Tensor, right_FW: Tensor, offsets: Tensor, columns: Tensor) -> Tensor:
    """Return <left[t], right[f]> for the entries (t, f) of a sparse matrix only, (nnz,)."""
    if fast := kernels.for_device(left_TW.device):
        return fast.dot_products(left_TW, right_FW, offsets, columns)
    shape = (left_TW.shape[0], right_FW.shape[0])
    blank = left_TW.new_zeros(len(columns))
    _warn_of_sparse_tensors()
    pattern = torch.sparse_csr_tensor(offsets, columns, blank, shape, check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, left_TW, right_FW.t(), beta=0.0).values()


@cache
def _warn_of_sparse_tensors() -> None:
    """Have torch say, unheard, that its CSR support is in beta; it does so once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 0], [], [], (1, 1), check_invariants=False)


class ByFeature(NamedTuple):
    """The order that sorts entries by feature, tokens in order within one; made once a step."""

    features: Tensor
    order: Tensor
    starts: Tensor
    """(F + 1,): where each feature starts in `order`."""

    @classmethod
    def of(cls, features: Tensor, n_features: int) -> "ByFeature":
        """Return the order of entries of `features`."""
        return cls(features, _by_feature(features, n_features), offsets_of(features, n_features))

    @property
    def counts_F(self) -> Tensor:
        """How many entries each feature has."""
        return self.starts.diff()

    def sums(self, values: Tensor) -> Tensor:
        """Return the sum of the values of each feature, (F,).

        On GPUs the faster bincount adds in any order, and a run that resumes would differ in last
        bits.
        """
        if values.is_cuda:
            return torch.segment_reduce(values[self.order], "sum", offsets=self.starts, initial=0.0)
        n_features = len(self.starts) - 1
        return torch.bincount(self.features, weights=values, minlength=n_features).to(values.dtype)


def _by_feature(features: Tensor, n_features: int) -> Tensor:
    """Return the order that sorts entries by feature and keeps tokens in order within one."""
    if features.device.type == "cpu" and n_features <= 2**16:
        short = features.numpy().astype("uint16")  # numpy sorts 16-bit numbers by radix
        return torch.from_numpy(short.argsort(kind="stable"))
    return torch.sort(features, stable=True).indices
