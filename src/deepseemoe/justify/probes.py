"""How well the routers' choices are predicted, from features and from what is no dictionary.

A ridge regression from features to each expert's selection, fitted on the select split; the top_k
experts of a test token by predicted value are the prediction. Baselines: the token, the token and
the one before it, and principal components of each layer, together as many as a token has active
features in a crosscoder. Macro-F1 is the mean over experts (RouterInterp, Lasy et al. 2026, which
fits logistic probes).

Axes: T tokens, F features, E experts, K top_k.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray

from deepseemoe.dictionary.site_names import site_names
from deepseemoe.justify.rows import Rows, Tokens
from deepseemoe.justify.sums import Key, Sums, units_of
from deepseemoe.names import Window

RIDGE = 0.01
"""Penalty over the tokens, for features of variance 1."""
PRIOR_TOKENS = 4.0
"""How many tokens' worth the coarser prediction counts where a token or pair is rare."""
BASELINES = ("unigram", "bigram", "pca")

Design = NDArray[np.float32] | sp.csr_array
Selections = Mapping[int, NDArray[np.float32]]
"""For each router, which experts each token chose, (T, E)."""


class Split(NamedTuple):
    """Tokens that a probe is fitted or tested on, and what the routers chose there."""

    tokens: Tokens
    chosen: Selections


def selections(rows: Rows, routers: tuple[int, ...], n_experts: int) -> Selections:
    """Return what each router chose on the valid rows, as 0 and 1."""
    chosen = {}
    for layer in routers:
        ids_TK = rows.array(f"expert_ids/L{layer:02d}")
        chosen[layer] = np.zeros((len(ids_TK), n_experts), np.float32)
        np.put_along_axis(chosen[layer], ids_TK, 1.0, axis=1)
    return chosen


class Ridge(NamedTuple):
    """A linear map of features to several targets."""

    weights_FE: NDArray[np.float64]
    bias_E: NDArray[np.float64]

    def __call__(self, design_TF: Design) -> NDArray[np.float64]:
        """Return predictions (T, E)."""
        return np.asarray(design_TF @ self.weights_FE) + self.bias_E


def fit_ridge(design_TF: Design, targets_TE: NDArray, *, ridge: float = RIDGE) -> Ridge:
    """Return the ridge regression on features that are centred and scaled to variance 1.

    Features that never vary get no weight.
    """
    n_tokens = design_TF.shape[0]
    gram_FF = design_TF.T @ design_TF
    gram_FF = np.asarray(gram_FF.toarray() if sp.issparse(gram_FF) else gram_FF, np.float64)
    mean_F = np.asarray(design_TF.sum(0), np.float64).ravel() / n_tokens
    mean_E = targets_TE.mean(0, dtype=np.float64)
    cross_FE = np.asarray(design_TF.T @ targets_TE, np.float64) - n_tokens * np.outer(
        mean_F, mean_E
    )
    gram_FF -= n_tokens * np.outer(mean_F, mean_F)
    scale_F = np.sqrt(np.diag(gram_FF).clip(0) / n_tokens)
    scale_F[scale_F <= 1e-9 * scale_F.max(initial=0)] = np.inf
    gram_FF /= np.outer(scale_F, scale_F)
    gram_FF[np.diag_indices_from(gram_FF)] += ridge * n_tokens
    weights_FE = scipy.linalg.solve(gram_FF, cross_FE / scale_F[:, None], assume_a="pos")
    weights_FE /= scale_F[:, None]
    return Ridge(weights_FE, mean_E - mean_F @ weights_FE)


def probe_features(
    arm: str,
    fit_codes: sp.csr_array,
    test_codes: sp.csr_array,
    fit: Split,
    test: Split,
    sums: Sums,
    *,
    max_features: int,
) -> None:
    """Add to `sums` how well features predict the routers."""
    often = np.bincount(fit_codes.indices, minlength=fit_codes.shape[1])
    kept = np.sort(np.argsort(-often, kind="stable")[:max_features])
    fit_TF, test_TF = fit_codes[:, kept], test_codes[:, kept]
    layers = list(fit.chosen)
    ridge = fit_ridge(fit_TF, np.concatenate([fit.chosen[n] for n in layers], axis=1))
    _add_all(arm, ridge(test_TF), test, sums)


def probe_baselines(
    window: Window, fit_rows: Rows, test_rows: Rows, fit: Split, test: Split, sums: Sums, *, k: int
) -> None:
    """Add to `sums` how well the baselines do; `pca` takes `k` components of each layer."""
    target = np.concatenate(list(fit.chosen.values()), axis=1)
    mean_E = target.mean(0, dtype=np.float64)
    seen, asked = fit.tokens, test.tokens
    unigram_TE = _by_group(seen.token_ids, target, asked.token_ids, mean_E)
    _add_all("unigram", unigram_TE, test, sums)
    size = 1 + max(int(seen.token_ids.max()), int(asked.token_ids.max()))
    pairs = [(part.before + 1) * size + part.token_ids for part in (seen, asked)]
    _add_all("bigram", _by_group(pairs[0], target, pairs[1], unigram_TE), test, sums)
    components = Components.of(window, fit_rows, k)
    ridge = fit_ridge(components(fit_rows), target)
    _add_all("pca", ridge(components(test_rows)), test, sums)


def _by_group(
    seen: NDArray[np.int64],
    targets_TE: NDArray[np.float32],
    asked: NDArray[np.int64],
    otherwise: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the mean target of each asked group, drawn to `otherwise` where it is rarely seen."""
    groups, place = np.unique(seen, return_inverse=True)
    ones = np.ones(len(seen), np.float64)
    indicator = sp.csr_array((ones, (place, np.arange(len(seen)))), (len(groups), len(seen)))
    total_GE, count_G = indicator @ targets_TE.astype(np.float64), np.bincount(place)
    at = np.searchsorted(groups, asked).clip(max=len(groups) - 1)
    known = groups[at] == asked
    total_TE, count_T = np.where(known[:, None], total_GE[at], 0), np.where(known, count_G[at], 0)
    return (total_TE + PRIOR_TOKENS * otherwise) / (count_T + PRIOR_TOKENS)[:, None]


class Components(NamedTuple):
    """The leading principal components of each layer of a window."""

    window: Window
    mean_LD: NDArray[np.float64]
    directions_LDK: NDArray[np.float64]

    @classmethod
    def of(cls, window: Window, rows: Rows, n: int) -> "Components":
        """Return the first `n` components of each layer over rows."""
        sites, count = site_names("resid_post", window), 0
        total_LD, square_LDD = 0.0, 0.0
        for _, block_TLD in rows.blocks(sites):
            x_LTD = block_TLD.double().numpy().swapaxes(0, 1)
            total_LD, square_LDD = total_LD + x_LTD.sum(1), square_LDD + x_LTD.mT @ x_LTD
            count += len(block_TLD)
        mean_LD = total_LD / count
        covariance_LDD = square_LDD / count - mean_LD[:, :, None] * mean_LD[:, None, :]
        _, vectors_LDD = np.linalg.eigh(covariance_LDD)  # in order of rising variance
        return cls(window, mean_LD, vectors_LDD[:, :, -n:])

    def __call__(self, rows: Rows) -> NDArray[np.float32]:
        """Return the components of all valid rows, layer beside layer."""
        pieces = [
            np.einsum("tld,ldk->tlk", x_TLD.double().numpy() - self.mean_LD, self.directions_LDK)
            for _, x_TLD in rows.blocks(site_names("resid_post", self.window))
        ]
        together_TLK = np.concatenate(pieces)
        return together_TLK.reshape(len(together_TLK), -1).astype(np.float32)


def _add_all(arm: str, scores_TE: NDArray[np.float64], test: Split, sums: Sums) -> None:
    """Add the macro-F1 sums of all routers, whose experts stand side by side in `scores_TE`."""
    units, first = units_of(test.tokens.documents), 0
    for layer, chosen_TE in test.chosen.items():
        n_experts = chosen_TE.shape[1]
        own_TE = scores_TE[:, first : first + n_experts]
        top_k = int(chosen_TE[0].sum())
        best_TK = np.argpartition(-own_TE, top_k - 1, axis=1)[:, :top_k]
        predicted_TE = np.zeros_like(chosen_TE)
        np.put_along_axis(predicted_TE, best_TK, 1.0, axis=1)
        for expert in range(n_experts):
            predicted, chosen = predicted_TE[:, expert], chosen_TE[:, expert]
            key = Key(arm, "routing_f1", layer, expert)
            sums.add(key, units, 2 * predicted * chosen, predicted + chosen)
        first += n_experts
