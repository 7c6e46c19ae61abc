"""How the routers of each family decide, recomputed from their inputs and parameters only.

One pure function a kind, written from the published rules and not from the modules' code, so that a
test can hold the two against each other. All return the scores that the top-k was taken of: an
intervention that bans an expert has to mask those, because a selection bias can pick an expert
whatever its logit.

Axes: T tokens, D d_model, E experts, G groups of experts, K top_k.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Routing(NamedTuple):
    """Decisions of a router: `ids` and `weights` by falling weight; `scores` is what top-k saw."""

    logits_TE: Tensor
    scores_TE: Tensor
    ids_TK: Tensor
    weights_TK: Tensor


Route = Callable[[nn.Module, Tensor], Routing]


def by_weight(ids_TK: Tensor, weights_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Sort each token's experts by falling weight; equal weights keep their order."""
    order_TK = weights_TK.argsort(dim=-1, descending=True, stable=True)
    return ids_TK.gather(-1, order_TK), weights_TK.gather(-1, order_TK)


def _routing(logits_TE: Tensor, scores_TE: Tensor, ids_TK: Tensor, weights_TK: Tensor) -> Routing:
    return Routing(logits_TE, scores_TE, *by_weight(ids_TK, weights_TK))


def topk_then_softmax(router: nn.Module, x_TD: Tensor) -> Routing:
    """Weigh by the softmax of the K largest logits, which have a bias (gpt-oss)."""
    logits_TE = F.linear(x_TD, router.weight, router.bias)
    top_TK, ids_TK = logits_TE.topk(router.top_k, -1)
    return _routing(logits_TE, logits_TE, ids_TK, top_TK.softmax(-1))


def softmax_then_topk(router: nn.Module, x_TD: Tensor) -> Routing:
    """Weigh by the K largest of softmax(logits), to sum 1 only if `norm_topk_prob` (OLMoE)."""
    logits_TE = F.linear(x_TD, router.weight)
    p_TE = logits_TE.float().softmax(-1)
    weights_TK, ids_TK = p_TE.topk(router.top_k, -1)
    if router.norm_topk_prob:
        weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
    return _routing(logits_TE, p_TE, ids_TK, weights_TK.to(logits_TE.dtype))


def softmax_then_topk_sum_one(router: nn.Module, x_TD: Tensor) -> Routing:
    """Weigh by the K largest of softmax(logits), always to sum 1, in float32 (Mixtral)."""
    logits_TE = F.linear(x_TD, router.weight)
    p_TE = logits_TE.float().softmax(-1)
    weights_TK, ids_TK = p_TE.topk(router.top_k, -1)
    return _routing(logits_TE, p_TE, ids_TK, weights_TK / weights_TK.sum(-1, keepdim=True))


def scaled_softmax(router: nn.Module, x_TD: Tensor) -> Routing:
    """Weigh by the K largest of softmax(logits) times a factor (DeepSeek-V2).

    Under `group_limited_greedy` only experts of the best groups can be chosen, a group being as
    good as its best expert; the others score 0. The published code would scale the weights to
    sum 1 under `norm_topk_prob`; transformers does not, nor do we.
    """
    logits_TE = F.linear(x_TD.float(), router.weight.float())
    scores_TE = logits_TE.softmax(-1)
    if router.topk_method == "group_limited_greedy":
        groups_TGe = scores_TE.unflatten(-1, (router.num_group, -1))
        scores_TE = _keep_groups(groups_TGe, groups_TGe.amax(-1), router.topk_group, 0.0)
    weights_TK, ids_TK = scores_TE.topk(router.top_k, -1, sorted=False)
    return _routing(logits_TE, scores_TE, ids_TK, weights_TK * router.routed_scaling_factor)


def biased_sigmoid(router: nn.Module, x_TD: Tensor) -> Routing:
    """Choose by sigmoid(logits) + bias among the best groups (DeepSeek-V3, GLM-4).

    A group is as good as the sum of its two best experts. Weights are the sigmoids without the
    bias, which only chooses, to balance load without a loss; then scaled.
    """
    logits_TE = F.linear(x_TD.float(), router.weight.float())
    p_TE = logits_TE.sigmoid()
    groups_TGe = (p_TE + router.e_score_correction_bias).unflatten(-1, (router.num_group, -1))
    best_TG = groups_TGe.topk(2, -1).values.sum(-1)
    scores_TE = _keep_groups(groups_TGe, best_TG, router.topk_group, -torch.inf)
    ids_TK = scores_TE.topk(router.top_k, -1, sorted=False).indices
    weights_TK = p_TE.gather(1, ids_TK)
    if router.norm_topk_prob:
        weights_TK = weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20)
    return _routing(logits_TE, scores_TE, ids_TK, weights_TK * router.routed_scaling_factor)


def biased_softmax(router: nn.Module, x_TD: Tensor) -> Routing:
    """Choose by softmax(logits) + bias; weigh by the probabilities, to sum 1 (Ernie 4.5)."""
    logits_TE = F.linear(x_TD.float(), router.weight.float())
    p_TE = logits_TE.softmax(-1)
    scores_TE = p_TE + router.moe_statics.e_score_correction_bias.squeeze()
    ids_TK = scores_TE.topk(router.top_k, -1).indices
    weights_TK = p_TE.gather(1, ids_TK)
    weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True).clamp(min=router.norm_min)
    return _routing(logits_TE, scores_TE, ids_TK, weights_TK.to(x_TD.dtype))


def _keep_groups(groups_TGe: Tensor, best_TG: Tensor, n_kept: int, lost: float) -> Tensor:
    """Return scores (T, E) with `lost` in all but the `n_kept` best groups of each token."""
    kept = best_TG.topk(n_kept, -1, sorted=False).indices
    is_kept_TG = torch.zeros_like(best_TG, dtype=torch.bool).scatter_(1, kept, True)
    return groups_TGe.masked_fill(~is_kept_TG[..., None], lost).flatten(1)
