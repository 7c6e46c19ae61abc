"""Local effects: what a router decides where a feature is taken out of the residual before it.

    with     route(x)            x: the residual before the norm of the router
    without  route(x - z d)      z: activation, d: what a unit of the feature has written there

Everything upstream is frozen, so this is the direct path alone. `route` is the norm and the router
themselves, hence whatever a family does on the way (selection biases, limited groups) is in it. The
change of choice is 1, 0 or -1 for each expert. The margin of an expert is its selection score less
that of the expert whose place it has or would have to take: the top_k-th best of the others.

Tokens are sampled at equal distances among a feature's firings in text order, from a random start:
each firing has the same chance, and no way of drawing as many at equal chances meets more
documents.

Axes: T tokens, I sampled firings, D d_model, F features, C kinds of change, E experts, K top_k.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from deepseemoe.experts.effect_sums import Effects, EffectSums
from deepseemoe.runtime.seeds import generator

CHUNK_VALUES = 1 << 24
"""Numbers of residuals, or of scores, that are held at once: 64 MiB in float32."""


class Decided(Protocol):
    """What a router decided, as `model.routers.Routing`."""

    scores_TE: Tensor
    ids_TK: Tensor


Route = Callable[[Tensor], Decided]
"""Takes residuals (T, D) as they are before the norm of the router, in the model's type."""


class Choice(NamedTuple):
    """Which experts were chosen (0 or 1), and by what margin of the selection score; (T, E)."""

    chosen_TE: Tensor
    margin_TE: Tensor


class Firings(NamedTuple):
    """Some firings: row among the tokens, feature, activation; by row, then feature."""

    row_I: np.ndarray
    feature_I: np.ndarray
    activation_I: np.ndarray


class Sampler:
    """Take `n_wanted` firings of each feature, or all, out of `n_firings_F` that come in order."""

    def __init__(
        self, n_firings_F: np.ndarray, n_wanted: int, *, seed: int, purpose: str = "tokens"
    ):
        total_F = np.maximum(n_firings_F, 1)
        self._share_F = np.minimum(n_wanted, total_F) / total_F
        self._start_F = generator(seed, "effects", purpose).random(n_firings_F.size)
        self._seen_F = np.zeros(n_firings_F.size, np.int64)

    def take(self, features_TF: sp.csr_array) -> Firings:
        """Return the sampled firings among those of the next tokens."""
        row_I = np.repeat(np.arange(features_TF.shape[0]), np.diff(features_TF.indptr))
        feature_I = features_TF.indices.astype(np.int64)
        order = np.argsort(feature_I, kind="stable")
        counts_F = np.bincount(feature_I, minlength=self._seen_F.size)
        first_F = np.cumsum(counts_F) - counts_F
        number_I = np.empty_like(feature_I)
        number_I[order] = np.arange(order.size) - first_F[feature_I[order]]
        number_I += self._seen_F[feature_I]
        self._seen_F += counts_F
        before_I, after_I = (
            np.floor(number * self._share_F[feature_I] + self._start_F[feature_I])
            for number in (number_I, number_I + 1)
        )
        is_taken = after_I > before_I
        return Firings(row_I[is_taken], feature_I[is_taken], features_TF.data[is_taken])


def choice_of(routing: Decided) -> Choice:
    """Return which experts were chosen and all margins.

    Scores of experts that could not be chosen, as those of a group that lost, count as 0, or as
    the lowest score where that is lower: margins are finite. They are NaN where top_k is all
    experts.
    """
    scores_TE, ids_TK = routing.scores_TE.float(), routing.ids_TK.long()
    chosen_TE = torch.zeros_like(scores_TE).scatter_(1, ids_TK, 1.0)
    if scores_TE.isneginf().any():
        lowest_T1 = torch.where(scores_TE.isneginf(), torch.inf, scores_TE).amin(1, keepdim=True)
        scores_TE = torch.where(scores_TE.isneginf(), lowest_T1.clamp(max=0.0), scores_TE)
    top_k = ids_TK.shape[1]
    if top_k == scores_TE.shape[1]:
        return Choice(chosen_TE, torch.full_like(scores_TE, torch.nan))
    best_Tk = scores_TE.topk(top_k + 1, dim=1).values
    rival_TE = torch.where(chosen_TE > 0, best_Tk[:, -1:], best_Tk[:, -2:-1])
    return Choice(chosen_TE, scores_TE - rival_TE)


@torch.inference_mode()
def local_changes(
    residual_TD: Tensor, firings: Firings, directions_FD: Tensor, route: Route
) -> np.ndarray:
    """Return what each firing changes (I, C, E): choice and margin with less those without it.

    `directions_FD` are what a unit of each feature adds to the residual; they and the residuals
    are on one device. Results are float32 on the host.
    """
    rows, inverse = np.unique(firings.row_I, return_inverse=True)
    there = residual_TD.device
    row_I, feature_I, z_I = (
        torch.from_numpy(np.ascontiguousarray(part)).to(there)
        for part in (inverse, firings.feature_I, firings.activation_I)
    )
    residual_RD = residual_TD[torch.from_numpy(rows).to(there)]
    with_RE = choice_of(route(residual_RD))
    n_experts, d_model = with_RE.chosen_TE.shape[1], residual_TD.shape[1]
    step = max(CHUNK_VALUES // max(d_model, 2 * n_experts), 1)
    changes = [np.zeros((0, 2, n_experts), np.float32)]
    for start in range(0, row_I.numel(), step):
        row, feature, z = (part[start : start + step] for part in (row_I, feature_I, z_I))
        written_ID = z[:, None] * directions_FD[feature]
        without_IE = choice_of(route((residual_RD[row] - written_ID).to(residual_RD.dtype)))
        parts = [here[row] - gone for here, gone in zip(with_RE, without_IE, strict=True)]
        changes.append(torch.stack(parts, dim=1).cpu().numpy())
    return np.concatenate(changes)


def local_effects(
    residual_TD: Tensor,
    *,
    features_TF: sp.csr_array,
    document_T: np.ndarray,
    directions_FD: Tensor,
    route: Route,
    n_tokens: int = 400,
    confidence: float = 0.95,
    seed: int = 0,
) -> Effects:
    """Return the local effects of all features on all experts of one router, from arrays alone.

    Row t of `features_TF` is token t, activations in units in which `directions_FD` is what a unit
    adds to `residual_TD`; tokens of a document are neighbours. `route` takes residuals (T, D) and
    returns anything with `scores_TE`, what the top-k was taken of, and `ids_TK`. The rule
    `measure_effects` does the same, batch by batch.
    """
    n_firings_F = np.bincount(features_TF.indices, minlength=features_TF.shape[1])
    firings = Sampler(n_firings_F, n_tokens, seed=seed).take(sp.csr_array(features_TF))
    changes_ICE = local_changes(residual_TD, firings, directions_FD, route)
    sums = EffectSums(features_TF.shape[1], changes_ICE.shape[2])
    sums.add(document_T[firings.row_I], firings.feature_I, changes_ICE)
    return sums.effects(confidence)
