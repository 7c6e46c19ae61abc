"""What experts write along the directions of features at one layer: sums over a stream of tokens.

On a token, expert e adds y_e to the residual; its projection on the unit decoder direction of
feature f is p = y_e · d_f. The contrast of a pair is the mean of p over tokens with f active and e
chosen (on), less the mean over tokens that choose e while f is silent (off). The sum of p over all
tokens of e is (sum of y_e) · d_f, so the off means need one vector an expert and not a projection
of every token on every feature.

A document with s and n (projections and tokens on) and S and N (those of all tokens of e) moves the
contrast by u = a*s - b*n - c*S + d*N, where a = 1/n_on + 1/n_off, b = mean_on/n_on +
mean_off/n_off, c = 1/n_off and d = mean_off/n_off; ten sums of products over documents give the sum
of u^2. Memory: fourteen tables (F, E), and of the open document its pairs and one vector an expert.

Beside the projections, a change of the feature's activation may be given for each active entry and
chosen expert (`activation_changes`); its mean over the tokens on, with t the sum of a document's,
has u = (t - mean * n) / n_on.

Axes: T tokens, D d_model, F features, E experts, K top_k, I active entries of the features.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from deepseemoe.experts.statistics import clustered_interval, effective_clusters

CHUNK_ENTRIES = 4096
"""Active entries projected at once, each with the (K, D) outputs of its token."""

PRODUCTS = ("s", "n", "ss", "nn", "sn", "sS", "sN", "nS", "nN", "t", "tt", "tn")
"""Sums over documents that are kept only for pairs that met in one."""


class Contrasts(NamedTuple):
    """Statistics of all pairs (F, E) of a layer; NaN where a mean has no token."""

    n_both: np.ndarray
    n_expert_E: np.ndarray
    mean_on: np.ndarray
    mean_off: np.ndarray
    low: np.ndarray
    high: np.ndarray
    share: np.ndarray
    change: np.ndarray
    change_low: np.ndarray
    change_high: np.ndarray


class LayerContributions:
    """Add up what the experts of one layer write along unit directions (F, D)."""

    def __init__(self, directions_FD: Tensor, n_experts: int):
        self._directions_FD, self._n_experts = directions_FD, n_experts
        n_features, d_model = directions_FD.shape
        self.sums = {name: np.zeros(n_features * n_experts) for name in PRODUCTS}
        self.whole_squares_EF = np.zeros((n_experts, n_features))
        self.whole_ED, self.whole_times_chosen_ED = np.zeros((2, n_experts, d_model))
        self.chosen_E, self.chosen_squares_E = np.zeros((2, n_experts))
        self._open(None)

    @torch.inference_mode()
    def add(
        self,
        document_T: np.ndarray,
        features_TF: sp.csr_array,
        outputs_TKD: Tensor,
        experts_TK: np.ndarray,
        changes_IK: np.ndarray | None = None,
    ) -> None:
        """Add tokens in text order; the last document may go on in the next call.

        `changes_IK` are those of the activation of each entry of `features_TF`, 0 if not given.
        """
        experts_TK = experts_TK.astype(np.int64)
        token_I, feature_I = entries_of(features_TF)
        pair_IK = feature_I[:, None] * self._n_experts + experts_TK[token_I]
        projection_IK = project(token_I, feature_I, outputs_TKD, self._directions_FD)
        changes_IK = np.zeros_like(projection_IK) if changes_IK is None else changes_IK
        values = pair_IK, projection_IK, changes_IK
        changes = np.flatnonzero(np.diff(document_T)) + 1
        for start, stop in zip([0, *changes], [*changes, document_T.size], strict=True):
            if start < stop and document_T[start] != self._document:
                self._close()
                self._open(document_T[start])
            entries = slice(*features_TF.indptr[[start, stop]])
            self._met.append(tuple(value_IK[entries].ravel() for value_IK in values))
            experts = experts_TK[start:stop].ravel()
            self._chosen_E += np.bincount(experts, minlength=self._n_experts)
            index = torch.from_numpy(experts).to(outputs_TKD.device)
            self._written_ED.index_add_(0, index, outputs_TKD[start:stop].flatten(0, 1))

    @property
    def directions_FD(self) -> np.ndarray:
        """The unit directions, float64."""
        return self._directions_FD.cpu().double().numpy()

    @torch.inference_mode()
    def finish(self) -> "LayerContributions":
        """Close the last document and return the sums."""
        self._close()
        self._open(None)
        return self

    def _open(self, document: int | None) -> None:
        self._document, self._met = document, []
        self._chosen_E = np.zeros(self._n_experts)
        d_model, device = self._directions_FD.shape[1], self._directions_FD.device
        self._written_ED = torch.zeros(self._n_experts, d_model, device=device)

    def _close(self) -> None:
        """Add the products of the open document's sums."""
        if self._document is None:
            return
        pairs, projections, changes = (
            np.concatenate(parts) for parts in zip(*self._met, strict=True)
        )
        pair, inverse = np.unique(pairs, return_inverse=True)
        projected_EF = (self._written_ED @ self._directions_FD.T).cpu().numpy().astype(np.float64)
        value = {
            "s": np.bincount(inverse, projections, pair.size),
            "t": np.bincount(inverse, changes, pair.size),
            "n": np.bincount(inverse, minlength=pair.size).astype(np.float64),
            "S": projected_EF[pair % self._n_experts, pair // self._n_experts],
            "N": self._chosen_E[pair % self._n_experts],
        }
        for name, total in self.sums.items():
            total[pair] += np.prod([value[factor] for factor in name], axis=0)
        written_ED = self._written_ED.cpu().numpy().astype(np.float64)
        self.whole_squares_EF += projected_EF**2
        self.whole_ED += written_ED
        self.whole_times_chosen_ED += self._chosen_E[:, None] * written_ED
        self.chosen_E += self._chosen_E
        self.chosen_squares_E += self._chosen_E**2


def entries_of(features_TF: sp.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Return token and feature of each active entry (I,)."""
    token_I = np.repeat(np.arange(features_TF.shape[0]), np.diff(features_TF.indptr))
    return token_I, features_TF.indices.astype(np.int64)


def project(
    token_I: np.ndarray, feature_I: np.ndarray, values_TKD: Tensor, directions_FD: Tensor
) -> np.ndarray:
    """Return the products (I, K) of each entry's direction with the K values of its token."""
    products = [np.zeros((0, values_TKD.shape[1]), np.float32)]
    for start in range(0, token_I.size, CHUNK_ENTRIES):
        rows, columns = (
            torch.from_numpy(index[start : start + CHUNK_ENTRIES]).to(values_TKD.device)
            for index in (token_I, feature_I)
        )
        p_IK = (values_TKD[rows] @ directions_FD[columns, :, None]).squeeze(-1)
        products.append(p_IK.cpu().numpy())
    return np.concatenate(products)


def contrast(contributions: LayerContributions, confidence: float) -> Contrasts:
    """Return the contrasts (F, E) of finished sums, with intervals clustered by document."""
    directions_FD = contributions.directions_FD
    n_features, n_experts = directions_FD.shape[0], contributions.chosen_E.size
    sums = {k: v.reshape(n_features, n_experts) for k, v in contributions.sums.items()}
    whole, whole_times_chosen = (
        directions_FD @ written_ED.T
        for written_ED in (contributions.whole_ED, contributions.whole_times_chosen_ED)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        n_on, n_off = sums["n"], contributions.chosen_E - sums["n"]
        mean_on, mean_off = sums["s"] / n_on, (whole - sums["s"]) / n_off
        a, b = 1 / n_on + 1 / n_off, mean_on / n_on + mean_off / n_off
        c, d = 1 / n_off, mean_off / n_off
        squares = (
            a * a * sums["ss"]
            + b * b * sums["nn"]
            + c * c * contributions.whole_squares_EF.T
            + d * d * contributions.chosen_squares_E
            - 2 * a * (b * sums["sn"] + c * sums["sS"] - d * sums["sN"])
            + 2 * b * (c * sums["nS"] - d * sums["nN"])
            - 2 * c * d * whole_times_chosen
        )
        clusters = effective_clusters(n_on, sums["nn"])
        low, high = clustered_interval(
            mean_on - mean_off, np.maximum(squares, 0), clusters, confidence
        )
        share = sums["s"] / np.abs(sums["s"]).sum(1, keepdims=True)
        change = sums["t"] / n_on
        squares = (sums["tt"] - 2 * change * sums["tn"] + change**2 * sums["nn"]) / n_on**2
        changes = clustered_interval(change, np.maximum(squares, 0), clusters, confidence)
    n_both, chosen_E = n_on.astype(np.int64), contributions.chosen_E
    return Contrasts(n_both, chosen_E, mean_on, mean_off, low, high, share, change, *changes)
