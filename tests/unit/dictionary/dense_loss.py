"""The training loss of every form of dictionary as plain dense autograd."""

import torch
from dense_reference import batch_topk_mask, decoded, preactivations, skipped, topk_mask

from deepseemoe.dictionary.jumprelu import BANDWIDTH


class Jump(torch.autograd.Function):
    """z where z > θ, else 0; Eq. 11 of arXiv 2407.14435 with a kernel of width `BANDWIDTH` * θ."""

    @staticmethod
    def forward(context, z_TF, threshold_F):
        context.save_for_backward(z_TF, threshold_F)
        return z_TF * (z_TF > threshold_F)

    @staticmethod
    def backward(context, slope_TF):
        z_TF, threshold_F = context.saved_tensors
        width_F = BANDWIDTH * threshold_F
        is_near = ((z_TF - threshold_F) / width_F).abs() < 0.5
        pulled = -threshold_F / width_F * is_near * slope_TF
        return slope_TF * (z_TF > threshold_F), pulled.sum(0)


class Step(torch.autograd.Function):
    """1 where z > θ, else 0; Eq. 12."""

    @staticmethod
    def forward(context, z_TF, threshold_F):
        context.save_for_backward(z_TF, threshold_F)
        return (z_TF > threshold_F).to(z_TF.dtype)

    @staticmethod
    def backward(context, slope_TF):
        z_TF, threshold_F = context.saved_tensors
        width_F = BANDWIDTH * threshold_F
        is_near = ((z_TF - threshold_F) / width_F).abs() < 0.5
        return None, (-1 / width_F * is_near * slope_TF).sum(0)


def activated(activation, weights, parts, z_TF, *, d_model, k, strength):
    """Return the activations (T, F) of an activation function, and its penalty."""
    norm_F = weights.norm_F(d_model)
    match activation:
        case "batch_topk":
            return z_TF * batch_topk_mask(z_TF.detach(), norm_F.detach(), k * len(z_TF)), 0.0
        case "topk":
            return z_TF * topk_mask(z_TF.detach(), norm_F.detach(), parts, k), 0.0
        case "relu":
            cost_T = (z_TF.relu() * norm_F).sum(1)
            return z_TF.relu(), strength * cost_T.mean() / len(weights.decoder_bias)
    threshold_F = weights.thresholds.exp()
    l0 = Step.apply(z_TF, threshold_F).sum() / len(z_TF)
    return Jump.apply(z_TF, threshold_F), strength * (l0 / k - 1).square()


def dense_loss(
    weights,
    parts,
    inputs_TC,
    targets_TC,
    *,
    d_model,
    k,
    activation="batch_topk",
    strength=0.0,
    auxk=None,
    pre_bias=False,
):
    """Return the total loss, differentiable in `weights`, and what is active, (T, F)."""
    read_TC = inputs_TC - weights.decoder_bias if pre_bias else inputs_TC
    z_TF = preactivations(weights, parts, read_TC, d_model)
    active_TF, loss = activated(
        activation, weights, parts, z_TF, d_model=d_model, k=k, strength=strength
    )
    groups = 1 + max(part.group for part in parts)
    for group in range(groups):  # the prefixes, each reconstructing on its own; all of it last
        is_held = torch.cat([torch.full((p.n_features,), p.group <= group) for p in parts])
        written = decoded(weights, parts, active_TF * is_held, d_model)
        output = written + weights.decoder_bias + skipped(weights, inputs_TC, d_model)
        loss = loss + (output - targets_TC).square().mean() / groups
    is_active = active_TF.detach() > 0
    if auxk is None or not auxk.is_dead_F.any():
        return loss, is_active
    residual = (targets_TC - output).detach()
    n_dead = int(auxk.is_dead_F.sum())
    tokens = auxk.tokens(len(inputs_TC))
    z_TF, residual = z_TF[tokens], residual[tokens]
    dead = torch.where(auxk.is_dead_F, z_TF, -torch.inf)
    best = dead.topk(min(auxk.k_aux, n_dead), dim=1).indices
    chosen = torch.zeros_like(z_TF).scatter(1, best, 1.0)
    miss = residual - decoded(weights, parts, z_TF * chosen, d_model)
    spread = (residual - residual.mean(0)).square().sum()
    scale = auxk.weight * min(n_dead / auxk.k_aux, 1.0)
    return loss + scale * miss.square().sum() / spread, is_active


def whole(gradient):
    """Return a gradient that comes in blocks of rows as whole tensors."""
    tensors = [torch.full_like(weight, torch.nan) for weight in gradient.weights.tensors()]
    for index, first, stop, rows in (rows for block in gradient.blocks() for rows in block):
        tensors[index][first:stop] = rows
    return tensors
