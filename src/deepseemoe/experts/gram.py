"""Ridge regression on few features: products over tokens once, then dense solutions.

Documents are dealt out to FOLDS folds. The products of each fold are kept, so that the regression
without a fold, its error on that fold, and its change as folds are left out need no further pass.

Axes: T tokens, G folds, F features, X targets.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from deepseemoe.experts.documents import DocumentStream

FOLDS = 8
"""Parts of the documents; also the replicates of the jackknife."""

FLUSH_TOKENS = 1 << 16
"""Tokens of a fold whose product is added at once."""


class Products(NamedTuple):
    """Sums over the tokens of each fold: of features, of targets, and of their products."""

    n_G: np.ndarray
    z_GF: np.ndarray
    zz_GFF: np.ndarray
    y_GX: np.ndarray
    yy_GX: np.ndarray
    zy_GFX: np.ndarray

    def without(self, fold: int | None) -> "Products":
        """Return the sums over all folds but one, or over all, with no axis of folds."""
        kept = np.arange(self.n_G.size) != (-1 if fold is None else fold)
        return Products(*(np.tensordot(kept.astype(float), part, axes=1) for part in self))

    def of(self, fold: int) -> "Products":
        """Return the sums over one fold, with no axis of folds."""
        return Products(*(part[fold] for part in self))


def feature_products(text: DocumentStream, features: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return n (G,), the sums of features (G, F) and of their products (G, F, F) of each fold."""
    n_G, z_GF = np.zeros(FOLDS), np.zeros((FOLDS, features.size))
    zz_GFF = np.zeros((FOLDS, features.size, features.size))
    held: list[list[sp.csr_array]] = [[] for _ in range(FOLDS)]

    def flush(fold: int) -> None:
        if held[fold]:
            z_TF = sp.vstack(held[fold], format="csr")
            zz_GFF[fold] += (z_TF.T @ z_TF).toarray()
            held[fold].clear()

    for block in text.blocks(features):
        fold_T = folds_of(text, block.start, block.stop)
        z_TF = block.features_TF.astype(np.float64)
        for fold in range(FOLDS):
            mine = z_TF[np.flatnonzero(fold_T == fold)]
            n_G[fold] += mine.shape[0]
            z_GF[fold] += mine.sum(0)
            held[fold].append(mine)
            if sum(part.shape[0] for part in held[fold]) >= FLUSH_TOKENS:
                flush(fold)
    for fold in range(FOLDS):
        flush(fold)
    return n_G, z_GF, zz_GFF


def folds_of(text: DocumentStream, start: int, stop: int) -> np.ndarray:
    """Return the fold of each row from `start` to `stop`, both bounds of documents."""
    return text.documents.between(start, stop) % FOLDS


def solve(products: Products, penalties: np.ndarray) -> np.ndarray:
    """Return coefficients (penalties, F, X) of ridge regressions on features of unit spread.

    `products` have no axis of folds. A penalty is in units of tokens times squared spread; features
    that never vary get 0.
    """
    n, mean_F = products.n_G, products.z_GF / products.n_G
    zz_FF = products.zz_GFF - n * np.outer(mean_F, mean_F)
    zy_FX = products.zy_GFX - np.outer(mean_F, products.y_GX)
    spread_F = np.sqrt(np.maximum(zz_FF.diagonal(), 0) / n)
    scale_F = np.divide(1, spread_F, np.zeros_like(spread_F), where=spread_F > 1e-12)
    zz_FF *= scale_F[:, None] * scale_F
    zy_FX *= scale_F[:, None]
    solutions = []
    for penalty in penalties:
        factor = scipy.linalg.cho_factor(zz_FF + penalty * n * np.eye(mean_F.size))
        solutions.append(scale_F[:, None] * scipy.linalg.cho_solve(factor, zy_FX))
    return np.array(solutions)


def squared_error(beta_FX: np.ndarray, fitted: Products, held: Products) -> tuple[np.ndarray, ...]:
    """Return the squared error (X,) on held-out sums, and that of the fitted means alone."""
    mean_F, mean_X = fitted.z_GF / fitted.n_G, fitted.y_GX / fitted.n_G
    n, z_F, y_X = held.n_G, held.z_GF, held.y_GX
    yy_X = held.yy_GX - 2 * mean_X * y_X + n * mean_X**2
    shift_F = mean_F @ beta_FX
    zb_X, zyb_X = z_F @ beta_FX, (beta_FX * held.zy_GFX).sum(0)
    cross_X = zyb_X - shift_F * y_X - mean_X * zb_X + n * mean_X * shift_F
    quadratic_X = (beta_FX * (held.zz_GFF @ beta_FX)).sum(0)
    quadratic_X += -2 * zb_X * shift_F + n * shift_F**2
    return yy_X - 2 * cross_X + quadratic_X, yy_X
