"""How the routers of each family decide, recomputed from their inputs and parameters only.

One pure function a kind, written from the published rules and not from the modules' code, so that a
test can hold the two against each other. All return the scores that the top-k was taken of.

Experts can be closed. A router decides as if banned ones had been cut out of its parameters: their
logits are hidden before a softmax, which gives their share to the rest, and their scores before the
top-k, since a selection bias picks an expert whatever its logit. Masked ones, others for each
token, keep their share and cannot be chosen. A group that loses experts is as good as those it has
left.

Axes: T tokens, D d_model, E experts, G groups of experts, e experts of a group
or left to a token, K top_k.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Routing(NamedTuple):
    """Decisions of a router: `ids` and `weights` by falling weight; `scores` is what top-k saw.

    Logits are all that the router computed, those of closed experts too; their scores are -inf.
    """

    logits_TE: Tensor
    scores_TE: Tensor
    ids_TK: Tensor
    weights_TK: Tensor


class Closed(NamedTuple):
    """The experts that cannot be chosen: the banned, and of the others each token's best."""

    is_banned_E: Tensor | None = None
    n_masked: int = 0


OPEN = Closed()
Route = Callable[[nn.Module, Tensor, Closed], Routing]
"""Takes a router, its input (T, D), and which experts are closed."""


def by_weight(ids_TK: Tensor, weights_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Sort each token's experts by falling weight; equal weights keep their order."""
    order_TK = weights_TK.argsort(dim=-1, descending=True, stable=True)
    return ids_TK.gather(-1, order_TK), weights_TK.gather(-1, order_TK)


def topk_then_softmax(router: nn.Module, x_TD: Tensor, closed: Closed = OPEN) -> Routing:
    """Weigh by the softmax of the K largest logits, which have a bias (gpt-oss)."""
    logits_TE = F.linear(x_TD, router.weight, router.bias)
    scores_TE, is_closed = _choice(logits_TE, closed)
    ids_TK = _best(scores_TE, router.top_k, is_closed)
    return _routing(logits_TE, scores_TE, ids_TK, scores_TE.gather(-1, ids_TK).softmax(-1))


def topk_then_sigmoid(router: nn.Module, x_TD: Tensor, closed: Closed = OPEN) -> Routing:
    """Weigh by the sigmoids of the K largest logits (Llama 4, where they weigh experts' inputs)."""
    logits_TE = F.linear(x_TD, router.weight)
    scores_TE, is_closed = _choice(logits_TE, closed)
    ids_TK = _best(scores_TE, router.top_k, is_closed).sort(-1).values
    ids_TK, _ = by_weight(ids_TK, scores_TE.gather(-1, ids_TK))  # sigmoids may round to ties
    p_TE = logits_TE.float().sigmoid()  # of whole rows: the last bit depends on a value's place
    return _routing(logits_TE, scores_TE, ids_TK, p_TE.gather(-1, ids_TK).to(logits_TE.dtype))


def softmax_then_topk(router: nn.Module, x_TD: Tensor, closed: Closed = OPEN) -> Routing:
    """Weigh by the K largest of softmax(logits), to sum 1 only if `norm_topk_prob` (OLMoE)."""
    logits_TE = F.linear(x_TD, router.weight)
    p_TE = _hide(logits_TE, closed.is_banned_E).float().softmax(-1)
    scores_TE, is_closed = _choice(p_TE, closed)
    ids_TK = _best(scores_TE, router.top_k, is_closed)
    weights_TK = scores_TE.gather(-1, ids_TK)
    if router.norm_topk_prob:
        weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
    return _routing(logits_TE, scores_TE, ids_TK, weights_TK.to(logits_TE.dtype))


def softmax_then_topk_sum_one(router: nn.Module, x_TD: Tensor, closed: Closed = OPEN) -> Routing:
    """Weigh by the K largest of softmax(logits), always to sum 1, in float32 (Mixtral)."""
    logits_TE = F.linear(x_TD, router.weight)
    p_TE = _hide(logits_TE, closed.is_banned_E).float().softmax(-1)
    scores_TE, is_closed = _choice(p_TE, closed)
    ids_TK = _best(scores_TE, router.top_k, is_closed)
    weights_TK = scores_TE.gather(-1, ids_TK)
    return _routing(logits_TE, scores_TE, ids_TK, weights_TK / weights_TK.sum(-1, keepdim=True))


def softmax_in_model_dtype(router: nn.Module, x_TD: Tensor, closed: Closed = OPEN) -> Routing:
    """Weigh by the K largest of softmax(logits), all in the model's type (DeepSeekMoE).

    To sum 1 only if `norm_topk_prob`, and never where K is 1, as in the published code.
    """
    logits_TE = F.linear(x_TD, router.weight)
    p_TE = _hide(logits_TE, closed.is_banned_E).softmax(-1)
    scores_TE, is_closed = _choice(p_TE, closed)
    ids_TK = _best(scores_TE, router.top_k, is_closed, is_sorted=False)
    weights_TK = scores_TE.gather(-1, ids_TK)
    if router.norm_topk_prob and router.top_k > 1:
        weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
    return _routing(logits_TE, scores_TE, ids_TK, weights_TK)


def scaled_softmax(router: nn.Module, x_TD: Tensor, closed: Closed = OPEN) -> Routing:
    """Weigh by the K largest of softmax(logits) times a factor (DeepSeek-V2).

    Under `group_limited_greedy` only experts of the best groups can be chosen, a group being as
    good as its best expert; the others score 0. The published code would scale the weights to
    sum 1 under `norm_topk_prob`; transformers does not, nor do we.
    """
    logits_TE = F.linear(x_TD.float(), router.weight.float())
    p_TE = _hide(logits_TE, closed.is_banned_E).softmax(-1)
    scores_TE, is_closed = _choice(p_TE, closed)
    n_groups, n_kept = group_limit(router)
    if n_groups > 1:
        groups_TGe = scores_TE.unflatten(-1, (n_groups, -1))
        limited_TE = _keep_groups(groups_TGe, groups_TGe.amax(-1), n_kept, 0.0)
        scores_TE = _hide(limited_TE, is_closed)
    ids_TK = _best(scores_TE, router.top_k, is_closed, is_sorted=False)
    weights_TK = scores_TE.gather(-1, ids_TK) * router.routed_scaling_factor
    return _routing(logits_TE, scores_TE, ids_TK, weights_TK)


def biased_sigmoid(router: nn.Module, x_TD: Tensor, closed: Closed = OPEN) -> Routing:
    """Choose by sigmoid(logits) + bias among the best groups (DeepSeek-V3, GLM-4).

    A group is as good as the sum of its two best experts. Weights are the sigmoids without the
    bias, which only chooses, to balance load without a loss; then scaled.
    """
    logits_TE = F.linear(x_TD.float(), router.weight.float())
    p_TE = logits_TE.sigmoid()
    n_groups, n_kept = group_limit(router)
    choice_TE, is_closed = _choice(p_TE + router.e_score_correction_bias, closed)
    groups_TGe = choice_TE.unflatten(-1, (n_groups, -1))
    first_TG, second_TG = groups_TGe.topk(2, -1).values.unbind(-1)
    best_TG = first_TG + second_TG.masked_fill(second_TG.isneginf(), 0.0)
    scores_TE = _keep_groups(groups_TGe, best_TG, n_kept, -torch.inf)
    ids_TK = _best(scores_TE, router.top_k, is_closed, is_sorted=False)
    weights_TK = p_TE.gather(-1, ids_TK)
    if router.norm_topk_prob:
        weights_TK = weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20)
    weights_TK = weights_TK * router.routed_scaling_factor
    return _routing(logits_TE, scores_TE, ids_TK, weights_TK)


def biased_softmax(router: nn.Module, x_TD: Tensor, closed: Closed = OPEN) -> Routing:
    """Choose by softmax(logits) + bias; weigh by the probabilities, to sum 1 (Ernie 4.5)."""
    logits_TE = F.linear(x_TD.float(), router.weight.float())
    p_TE = _hide(logits_TE, closed.is_banned_E).softmax(-1)
    biased_TE = p_TE + router.moe_statics.e_score_correction_bias.squeeze()
    scores_TE, is_closed = _choice(biased_TE, closed)
    ids_TK = _best(scores_TE, router.top_k, is_closed)
    weights_TK = p_TE.gather(-1, ids_TK)
    weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True).clamp(min=router.norm_min)
    return _routing(logits_TE, scores_TE, ids_TK, weights_TK.to(x_TD.dtype))


def group_limit(router: nn.Module) -> tuple[int, int]:
    """Return how many groups a router's experts form, and of how many a token may have experts."""
    if getattr(router, "topk_method", "group_limited_greedy") != "group_limited_greedy":
        return 1, 1
    return getattr(router, "num_group", 1), getattr(router, "topk_group", 1)


def _routing(logits_TE: Tensor, scores_TE: Tensor, ids_TK: Tensor, weights_TK: Tensor) -> Routing:
    return Routing(logits_TE, scores_TE, *by_weight(ids_TK, weights_TK))


def _choice(scores_TE: Tensor, closed: Closed) -> tuple[Tensor, Tensor | None]:
    """Return scores with -inf for closed experts, and which are closed: (E,) or (T, E)."""
    scores_TE = _hide(scores_TE, closed.is_banned_E)
    if not closed.n_masked:
        return scores_TE, closed.is_banned_E
    best = scores_TE.topk(closed.n_masked, -1).indices
    is_closed_TE = torch.zeros_like(scores_TE, dtype=torch.bool).scatter_(-1, best, True)
    if closed.is_banned_E is not None:
        is_closed_TE |= closed.is_banned_E
    return _hide(scores_TE, is_closed_TE), is_closed_TE


def _hide(values_TE: Tensor, is_closed: Tensor | None) -> Tensor:
    """Return the values with -inf for closed experts."""
    return values_TE if is_closed is None else values_TE.masked_fill(is_closed, -torch.inf)


def _best(
    scores_TE: Tensor, top_k: int, is_closed: Tensor | None, *, is_sorted: bool = True
) -> Tensor:
    """Return the ids (T, K) of the best experts, in the order that the module's top-k gives.

    Which of equal scores wins depends on the length of the row, so closed columns are cut out. To
    hide them only chose otherwise than a pruned router for 0.8 % (32 experts, top 4) to 1.9 % (64,
    top 8) of random tokens in bfloat16.
    """
    if is_closed is None:
        return scores_TE.topk(top_k, -1, sorted=is_sorted).indices
    if is_closed.ndim == 1:
        left = torch.nonzero(~is_closed).flatten()
        return left[scores_TE[:, left].topk(top_k, -1, sorted=is_sorted).indices]
    left = torch.nonzero(~is_closed)[:, 1]
    left_Te = left.view(len(scores_TE), len(left) // max(len(scores_TE), 1))
    best = scores_TE.gather(-1, left_Te).topk(top_k, -1, sorted=is_sorted).indices
    return left_Te.gather(-1, best)


def _keep_groups(groups_TGe: Tensor, best_TG: Tensor, n_kept: int, lost: float) -> Tensor:
    """Return scores (T, E) with `lost` in all but the `n_kept` best groups of each token."""
    kept = best_TG.topk(n_kept, -1, sorted=False).indices
    is_kept_TG = torch.zeros_like(best_TG, dtype=torch.bool).scatter_(1, kept, True)
    return groups_TGe.masked_fill(~is_kept_TG[..., None], lost).flatten(1)
