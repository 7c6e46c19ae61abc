"""Ridge regression on many features: conjugate gradients on a sample of documents in memory.

131,072 features have 17 billion products, but a token has a few dozen active ones. Conjugate
gradients need no product of features, only sums over active entries: two sparse products a step
for all targets, and for all groups of left-out documents, side by side. Features are scaled to unit
spread, which is Jacobi's preconditioner for the unpenalised problem.

Axes: T tokens of the sample, G groups, F features, X targets, C = G * X columns.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from deepseemoe.experts import kernels
from deepseemoe.experts.documents import DocumentStream
from deepseemoe.experts.gram import FOLDS, folds_of

SAMPLE_TOKENS = 1 << 20
"""Tokens of the sample, in whole documents spread over the split."""

TOLERANCE, MOST_STEPS = 1e-3, 100
"""Steps end where every column's residual has fallen to this share of its right side."""


class _Place(NamedTuple):
    """Where a block lies in the split, and which of its rows are in the sample."""

    start: int
    stop: int
    kept: np.ndarray


class Sample:
    """Features of some documents, by token and by feature."""

    def __init__(self, places: Sequence[_Place], by_token: sp.csr_array, fold_T: np.ndarray):
        self._places, self.fold_T = places, fold_T
        self._by_token = by_token.astype(np.float32)
        self._by_feature = self._by_token.tocsc()
        self.n_features = by_token.shape[1]

    @classmethod
    def of(cls, text: DocumentStream, features: np.ndarray) -> "Sample":
        """Return every n-th run of FOLDS documents, so that about SAMPLE_TOKENS are held."""
        every = max(1, round(text.n_tokens / SAMPLE_TOKENS))
        places, parts, folds = [], [], []
        for block in text.blocks(features):
            document_T = text.documents.between(block.start, block.stop)
            kept = np.flatnonzero(document_T // FOLDS % every == 0)
            places.append(_Place(block.start, block.stop, kept))
            parts.append(block.features_TF[kept])
            folds.append(folds_of(text, block.start, block.stop)[kept])
        return cls(places, sp.vstack(parts, format="csr"), np.concatenate(folds))

    def targets(self, targets: Callable[[int, int], np.ndarray], n_columns: int) -> np.ndarray:
        """Return the targets (T, X) of the sample."""
        parts = [targets(one.start, one.stop)[one.kept] for one in self._places if one.kept.size]
        return np.concatenate(parts, dtype=np.float32).reshape(-1, n_columns)

    def solve(
        self, y_TX: np.ndarray, penalty: float, groups: Sequence[int | None]
    ) -> list[np.ndarray]:
        """Return coefficients (F, X) without each group of documents (None: with all of them)."""
        system = _System(self, penalty, groups, y_TX.shape[1])
        beta_FC = system.solve(np.tile(y_TX, len(groups)))
        return np.split(beta_FC, len(groups), axis=1)

    def squared_error(self, beta_FX: np.ndarray, y_TX: np.ndarray, fold: int) -> np.ndarray:
        """Return the squared error (2, X) on a fold, of the fit and of the fitted mean alone."""
        held, fitted = self.fold_T == fold, self.fold_T != fold
        predicted_TX = self.decode(beta_FX)
        alone_TX = y_TX[held] - y_TX[fitted].mean(0)
        shift_TX = predicted_TX[held] - predicted_TX[fitted].mean(0)
        return np.array([((alone_TX - shift_TX) ** 2).sum(0), (alone_TX**2).sum(0)], np.float64)

    def decode(self, weights_FC: np.ndarray) -> np.ndarray:
        """Return the sum of activation times weights (T, C)."""
        m, out_TC = self._by_token, np.zeros((self.fold_T.size, weights_FC.shape[1]), np.float32)
        kernels.decode(m.indptr, m.indices, m.data, weights_FC.astype(np.float32), out_TC)
        return out_TC

    def gather(self, values_TC: np.ndarray) -> np.ndarray:
        """Return the sum over tokens of activation times value (F, C)."""
        m, out_FC = self._by_feature, np.zeros((self.n_features, values_TC.shape[1]), np.float32)
        kernels.gather(m.indptr, m.indices, m.data, values_TC.astype(np.float32), out_FC)
        return out_FC


class _System:
    """Normal equations of several groups: column (g, x) leaves the documents of group g out."""

    def __init__(
        self, sample: Sample, penalty: float, groups: Sequence[int | None], n_targets: int
    ):
        self._sample = sample
        kept_TG = np.stack([sample.fold_T != (-1 if g is None else g) for g in groups], axis=1)
        self._kept_TC = np.repeat(kept_TG, n_targets, axis=1)
        self._n_C = self._kept_TC.sum(0).astype(np.float32)
        mask = self._kept_TC[:, ::n_targets].astype(np.float32)
        total_FG = sample.gather(mask)
        n_G = mask.sum(0)
        squares_FG = _squares(sample, mask)
        mean_FG = total_FG / n_G
        spread_FG = np.sqrt(np.maximum(squares_FG / n_G - mean_FG**2, 0))
        scale_FG = np.divide(1, spread_FG, np.zeros_like(spread_FG), where=spread_FG > 1e-6)
        self._mean_FC = np.repeat(mean_FG, n_targets, axis=1)
        self._scale_FC = np.repeat(scale_FG, n_targets, axis=1)
        self._penalty_C = penalty * self._n_C

    def solve(self, y_TC: np.ndarray) -> np.ndarray:
        """Return the coefficients (F, C), each column by its own conjugate gradients."""
        y_TC = np.where(self._kept_TC, y_TC - self._mean(y_TC), 0)
        residual_FC = self._transposed(y_TC)
        beta_FC, step_FC = np.zeros_like(residual_FC), residual_FC.copy()
        size_C = (residual_FC**2).sum(0)
        enough_C = TOLERANCE**2 * size_C
        for _ in range(MOST_STEPS):
            if (size_C <= enough_C).all():
                break
            moved_FC = self._transposed(self._forward(step_FC)) + self._penalty_C * step_FC
            curvature_C = (step_FC * moved_FC).sum(0)
            alpha_C = np.divide(size_C, curvature_C, np.zeros_like(size_C), where=curvature_C > 0)
            beta_FC += alpha_C * step_FC
            residual_FC -= alpha_C * moved_FC
            new_C = (residual_FC**2).sum(0)
            ratio_C = np.divide(new_C, size_C, np.zeros_like(size_C), where=size_C > 0)
            step_FC = residual_FC + ratio_C * step_FC
            size_C = new_C
        return beta_FC * self._scale_FC

    def _forward(self, scaled_FC: np.ndarray) -> np.ndarray:
        weights_FC = scaled_FC * self._scale_FC
        shift_C = (self._mean_FC * weights_FC).sum(0)
        return np.where(self._kept_TC, self._sample.decode(weights_FC) - shift_C, 0)

    def _transposed(self, values_TC: np.ndarray) -> np.ndarray:
        """Return centred, scaled features times values that are 0 on what is left out."""
        total_FC = self._sample.gather(values_TC) - self._mean_FC * values_TC.sum(0)
        return total_FC * self._scale_FC

    def _mean(self, y_TC: np.ndarray) -> np.ndarray:
        return np.where(self._kept_TC, y_TC, 0).sum(0) / self._n_C


def _squares(sample: Sample, mask_TG: np.ndarray) -> np.ndarray:
    """Return the sum of squared activations (F, G) over the tokens of each mask."""
    m, out_FG = sample._by_feature, np.zeros((sample.n_features, mask_TG.shape[1]), np.float32)
    kernels.gather(m.indptr, m.indices, m.data**2, mask_TG, out_FG)
    return out_FG
