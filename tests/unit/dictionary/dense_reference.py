"""The training loss of a dictionary as plain dense autograd, slow and obvious."""

import torch

from deepseemoe.dictionary.layout import parts_of
from deepseemoe.dictionary.scan import Job
from deepseemoe.dictionary.weights import Weights


def random_weights(kind, *, n_layers, d_model, d_dict, seed=0, dtype=torch.float64):
    parts = parts_of(kind, n_layers=n_layers, d_dict=d_dict)
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=rng, dtype=dtype)

    weights = Weights(
        tuple(draw(p.n_features, len(p.reads) * d_model) / d_model**0.5 for p in parts),
        0.1 * draw(d_dict),
        tuple(draw(p.n_features, len(p.writes) * d_model) / d_model**0.5 for p in parts),
        0.1 * draw(n_layers * d_model),
    )
    return parts, weights


def jobs_for(parts, inputs_TC, d_model):
    return [Job(i, part, part.read(inputs_TC, d_model)) for i, part in enumerate(parts)]


def preactivations(weights, parts, inputs_TC, d_model):
    blocks = [
        part.read(inputs_TC, d_model) @ encoder.t()
        for part, encoder in zip(parts, weights.encoders, strict=True)
    ]
    return torch.cat(blocks, dim=1) + weights.encoder_bias


def decoded(weights, parts, z_TF, d_model):
    output = torch.zeros(len(z_TF), len(weights.decoder_bias), dtype=z_TF.dtype)
    for part, decoder in zip(parts, weights.decoders, strict=True):
        padded = torch.zeros(part.n_features, output.shape[1], dtype=z_TF.dtype)
        padded[:, part.write_columns(d_model)] = decoder
        output = output + z_TF[:, part.first : part.stop] @ padded
    return output


def batch_topk_mask(z_TF, norm_F, n_keep):
    """Return which of relu(z) * norm are among the `n_keep` highest, by sorting all of them."""
    scores = (z_TF.relu() * norm_F).flatten()
    kept = torch.sort(scores, descending=True, stable=True).indices[:n_keep]
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[kept] = True
    return (mask & (scores > 0)).view_as(z_TF)


def dense_loss(weights, parts, inputs_TC, targets_TC, *, d_model, k, auxk=None):
    """Return the total loss, differentiable in `weights`."""
    z_TF = preactivations(weights, parts, inputs_TC, d_model)
    norm_F = weights.norm_F(d_model).detach()
    active = batch_topk_mask(z_TF.detach(), norm_F, k * len(inputs_TC))
    output = decoded(weights, parts, z_TF * active, d_model) + weights.decoder_bias
    loss = (output - targets_TC).square().mean()
    if auxk is None or not auxk.is_dead_F.any():
        return loss
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
    return loss + scale * miss.square().sum() / spread


def whole(gradient):
    """Return a gradient that comes in blocks of rows as whole tensors."""
    tensors = [torch.full_like(weight, torch.nan) for weight in gradient.weights.tensors()]
    for index, first, stop, rows in gradient.blocks():
        tensors[index][first:stop] = rows
    return tensors
