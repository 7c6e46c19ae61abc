"""The losses of NanoMoE: next-token cross-entropy in chunks, load balance and router z-loss.

Axes: T tokens, D d_model, V vocabulary, E experts, K top_k.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_TOKENS = 512  # rows of logits at once: 8 MB at a vocabulary of 4096, which a cache holds


class _LinearCrossEntropy(torch.autograd.Function):
    """Mean of -log softmax(h W^T)[target], with gradients found on the way forward.

    Logits exist only chunk by chunk, so the (T, V) arrays that a plain loss reads and writes
    several times never reach memory: 3 products, as a plain loss needs, and nothing more that big.
    """

    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
        head_VD = weight_VD.to(hidden_TD.dtype)
        total = hidden_TD.new_zeros((), dtype=torch.float32)
        grad_hidden_TD = torch.empty_like(hidden_TD)
        grad_weight_VD = torch.zeros_like(weight_VD)
        for start in range(0, len(targets_T), CHUNK_TOKENS):
            rows = slice(start, start + CHUNK_TOKENS)
            target = targets_T[rows, None]
            log_p = torch.log_softmax((hidden_TD[rows] @ head_VD.T).float(), -1)
            total -= log_p.gather(1, target).sum()
            grad_logits = log_p.exp_().scatter_add_(1, target, -torch.ones_like(target).float())
            grad_logits = grad_logits.to(hidden_TD.dtype)
            torch.mm(grad_logits, head_VD, out=grad_hidden_TD[rows])
            grad_weight_VD += grad_logits.T @ hidden_TD[rows]
        ctx.n_targets = max(len(targets_T), 1)
        ctx.save_for_backward(grad_hidden_TD, grad_weight_VD)
        return total / ctx.n_targets

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden_TD, grad_weight_VD = ctx.saved_tensors
        scale = grad / ctx.n_targets
        return grad_hidden_TD * scale, grad_weight_VD * scale, None


def linear_cross_entropy(hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
    """Return the mean cross-entropy (nats) of a linear head without holding its logits.

    Gradients are those of `F.cross_entropy(hidden @ weight.T, targets)`. Products are in the type
    of `hidden_TD`, log-probabilities in float32, sums over tokens in the type of `weight_VD`.
    """
    return _LinearCrossEntropy.apply(hidden_TD, weight_VD, targets_T)


def next_token_loss(
    hidden_SND: Tensor, weight_VD: Tensor, ids_SN: Tensor, positions_SN: Tensor
) -> Tensor:
    """Return the mean cross-entropy (nats) of each token's successor inside its segment.

    The last token of a segment has no target: what follows it belongs to another document.
    """
    has_next_SN = positions_SN[:, 1:] != 0
    hidden_TD = hidden_SND[:, :-1][has_next_SN]
    return linear_cross_entropy(hidden_TD, weight_VD, ids_SN[:, 1:][has_next_SN])


def balance_loss(router_logits: Sequence[Tensor], top_k: int) -> Tensor:
    """Return the mean over layers of E * sum_e f_e P_e, which is 1 where load is uniform.

    f_e is the share of the T * K choices that fall on expert e, P_e its mean probability: Eq. 4 of
    Switch Transformers (Fedus et al. 2022), with f over the choices of all K slots.
    """
    losses = []
    for logits_TE in router_logits:
        p_TE = logits_TE.float().softmax(-1)
        n_experts = p_TE.shape[-1]
        ids = p_TE.detach().topk(top_k, -1).indices.flatten()
        share_E = F.one_hot(ids, n_experts).float().mean(0)
        losses.append(n_experts * (share_E * p_TE.mean(0)).sum())
    return torch.stack(losses).mean()


def z_loss(router_logits: Sequence[Tensor]) -> Tensor:
    """Return the mean of logsumexp(logits)^2 over tokens and layers: Eq. 5 of ST-MoE (2022)."""
    squares = [logits_TE.float().logsumexp(-1).square() for logits_TE in router_logits]
    return torch.stack([square_T.mean() for square_T in squares]).mean()
