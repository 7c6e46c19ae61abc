"""What a probe reads, sparse or dense, with the two products that fitting needs.

Sparse features are never made dense. Each is divided by its mean activation where it fires, so a
penalty means the same for all; features that never fire in the fit part are left out. Dense inputs
are principal components of standardised coordinates: all of them span what the coordinates do, and
a ridge penalty does not see the rotation, but products of uncorrelated columns are fitted in a
fraction of the steps.

Axes: T tokens, F inputs, E experts, C coordinates.
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

BLOCK_TOKENS = 65_536
"""Rows of dense inputs that are widened to float32 at once."""
HALF_ABOVE = 1 << 28
"""Numbers from which on dense inputs are held in half precision: 1 GiB of float32."""


class Design(Protocol):
    """Inputs of tokens, (T, F)."""

    n_inputs: int
    mean_square_F: Tensor

    def times(self, weights_FE: Tensor) -> Tensor:
        """Return inputs times weights, (T, E)."""
        ...

    def adjoint(self, residual_TE: Tensor) -> Tensor:
        """Return transposed inputs times residuals, (F, E)."""
        ...


class Sparse:
    """A sparse design, held by rows and by columns.

    So both products are rows times a table, which adds up in the same order every time.
    """

    def __init__(self, inputs_TF: sp.csr_array, device: str) -> None:
        self.n_inputs = inputs_TF.shape[1]
        self._rows, self._columns = _tensor(inputs_TF, device), _tensor(inputs_TF.T.tocsr(), device)
        squares = inputs_TF.power(2).sum(0) / max(inputs_TF.shape[0], 1)
        self.mean_square_F = torch.from_numpy(np.asarray(squares, np.float32)).to(device)

    def times(self, weights_FE: Tensor) -> Tensor:
        """Return inputs times weights, (T, E)."""
        return self._rows @ weights_FE

    def adjoint(self, residual_TE: Tensor) -> Tensor:
        """Return transposed inputs times residuals, (F, E)."""
        return self._columns @ residual_TE


class Dense:
    """A dense design, held by columns, which is two times as fast for a few experts, in blocks."""

    def __init__(self, inputs_TF: Tensor, device: str) -> None:
        self.n_inputs = inputs_TF.shape[1]
        pieces = inputs_TF.split(BLOCK_TOKENS)
        self._columns = [part.t().contiguous().to(device) for part in pieces]
        squares = (part_FT.square().sum(1) for part_FT in self._blocks())
        self.mean_square_F = sum(squares) / max(len(inputs_TF), 1)

    def times(self, weights_FE: Tensor) -> Tensor:
        """Return inputs times weights, (T, E)."""
        return torch.cat([weights_FE.t() @ part_FT for part_FT in self._blocks()], dim=1).t()

    def adjoint(self, residual_TE: Tensor) -> Tensor:
        """Return transposed inputs times residuals, (F, E)."""
        pairs = zip(self._blocks(), residual_TE.split(BLOCK_TOKENS), strict=True)
        return sum(part_FT @ own_TE for part_FT, own_TE in pairs)

    def _blocks(self) -> Iterator[Tensor]:
        return (part_FT.float() for part_FT in self._columns)


def scaled(features_TF: sp.csr_array, fit_rows: np.ndarray) -> sp.csr_array:
    """Return the features that fire in the fit part, each over its mean activation there."""
    fit_TF = features_TF[fit_rows]
    n_F = np.bincount(fit_TF.indices, minlength=fit_TF.shape[1])
    total_F = np.bincount(fit_TF.indices, fit_TF.data, minlength=fit_TF.shape[1])
    fires = np.flatnonzero(n_F)
    place_F = np.full(n_F.size, -1, np.int32)
    place_F[fires] = np.arange(fires.size, dtype=np.int32)
    column = place_F[features_TF.indices]
    is_kept = column >= 0
    before = np.concatenate([[0], np.cumsum(is_kept)])
    scale_F = (n_F / np.where(total_F > 0, total_F, 1)).astype(np.float32)
    data = (features_TF.data * scale_F[features_TF.indices])[is_kept]
    parts = data, column[is_kept], before[features_TF.indptr]
    return sp.csr_array(parts, shape=(features_TF.shape[0], fires.size))


class Components(NamedTuple):
    """Principal components of standardised coordinates, the largest first."""

    mean_C: Tensor
    directions_CC: Tensor
    """Divided by the standard deviations: takes centred coordinates to components."""

    @classmethod
    def of(cls, coordinates_TC: Tensor, fit_rows: np.ndarray, device: str) -> "Components":
        """Return the components of the fit part; a coordinate that never varies has no part."""
        blocks = [torch.from_numpy(rows) for rows in np.array_split(fit_rows, _n_blocks(fit_rows))]
        n_tokens = len(fit_rows)
        mean_C = sum(coordinates_TC[b].to(device).float().sum(0) for b in blocks) / n_tokens
        gram_CC = 0
        for block in blocks:
            centred_TC = coordinates_TC[block].to(device).float() - mean_C
            gram_CC = gram_CC + centred_TC.t() @ centred_TC
        deviation_C = (gram_CC.diag() / n_tokens).sqrt()
        deviation_C[deviation_C <= 1e-6 * deviation_C.max()] = torch.inf
        correlation_CC = gram_CC / n_tokens / torch.outer(deviation_C, deviation_C)
        vectors_CC = torch.linalg.eigh(correlation_CC).eigenvectors.flip(1)
        return cls(mean_C, vectors_CC / deviation_C[:, None])

    def __call__(self, coordinates_TC: Tensor, n: int) -> Tensor:
        """Return the first `n` components of tokens (T, n); float16 where they are many."""
        wanted_CN = self.directions_CC[:, :n]
        kept = torch.float16 if len(coordinates_TC) * n > HALF_ABOVE else torch.float32
        pieces = [
            ((part.to(wanted_CN.device).float() - self.mean_C) @ wanted_CN).to(kept).cpu()
            for part in coordinates_TC.split(BLOCK_TOKENS)
        ]
        return torch.cat(pieces)


def _n_blocks(rows: np.ndarray) -> int:
    return -(-len(rows) // BLOCK_TOKENS) or 1


def _tensor(matrix: sp.csr_array, device: str) -> Tensor:
    index = np.int32 if max(matrix.nnz, *matrix.shape) < 2**31 else np.int64
    parts = (matrix.indptr.astype(index), matrix.indices.astype(index), matrix.data)
    with warnings.catch_warnings():
        # torch says of all its CSR tensors that they may change; a product is all that is used.
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        tensors = map(torch.from_numpy, parts)
        made = torch.sparse_csr_tensor(*tensors, matrix.shape, check_invariants=False)
    return made.to(device)
