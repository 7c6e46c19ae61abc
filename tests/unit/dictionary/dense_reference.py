"""Dictionaries as plain dense formulas, slow and obvious: activations, selections, outputs."""

import torch

from deepseemoe.dictionary.layout import n_slots, parts_of
from deepseemoe.dictionary.scan import Job
from deepseemoe.dictionary.weights import Weights


def random_weights(
    kind,
    *,
    n_layers,
    d_model,
    d_dict,
    seed=0,
    dtype=torch.float64,
    skip=False,
    has_thresholds=False,
    **form,
):
    """Return the parts of a form of dictionary, and random weights for them."""
    parts = parts_of(kind, n_layers=n_layers, d_dict=d_dict, **form)
    slots = n_slots(n_layers, reconstruct_input=form.get("reconstruct_input", False))
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=rng, dtype=dtype)

    weights = Weights(
        tuple(draw(p.n_features, len(p.reads) * d_model) / d_model**0.5 for p in parts),
        0.1 * draw(d_dict),
        tuple(draw(p.n_features, len(p.writes) * d_model) / d_model**0.5 for p in parts),
        0.1 * draw(slots * d_model),
        tuple(draw(d_model, d_model) / d_model for _ in range(n_layers * skip)),
        0.3 * draw(d_dict) - 0.3 if has_thresholds else None,
    )
    return parts, weights


def rebuilt(tensors, like):
    """Return `Weights` of tensors in the order of `Weights.tensors`, shaped as `like`."""
    tensors, n_parts = list(tensors), len(like.encoders)
    encoders, bias = tensors[:n_parts], tensors[n_parts]
    decoders, decoder_bias = tensors[n_parts + 1 : 2 * n_parts + 1], tensors[2 * n_parts + 1]
    skips = tensors[2 * n_parts + 2 : 2 * n_parts + 2 + len(like.skips)]
    thresholds = None if like.thresholds is None else tensors[-1]
    return Weights(tuple(encoders), bias, tuple(decoders), decoder_bias, tuple(skips), thresholds)


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


def skipped(weights, inputs_TC, d_model):
    """Return what skip connections write: each layer's into the last of its slots."""
    n_layers = len(weights.skips)
    slots = len(weights.decoder_bias) // d_model // max(n_layers, 1)
    outputs = []
    for layer, skip in enumerate(weights.skips):
        x_TD = inputs_TC[:, layer * d_model : (layer + 1) * d_model]
        outputs += [torch.zeros_like(x_TD)] * (slots - 1) + [x_TD @ skip.t()]
    return torch.cat(outputs, dim=1) if outputs else 0.0


def batch_topk_mask(z_TF, norm_F, n_keep):
    """Return which of relu(z) * norm are among the `n_keep` highest, by sorting all of them."""
    scores = (z_TF.relu() * norm_F).flatten()
    kept = torch.sort(scores, descending=True, stable=True).indices[:n_keep]
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[kept] = True
    return (mask & (scores > 0)).view_as(z_TF)


def topk_mask(z_TF, norm_F, parts, k):
    """Return which of relu(z) * norm are among the highest of a token and source layer.

    Sorts all of them; source layers share k as evenly as possible, earlier ones first.
    """
    sources = list(dict.fromkeys(part.reads for part in parts))
    mask = torch.zeros_like(z_TF, dtype=torch.bool)
    for place, source in enumerate(sources):
        share = len(range(place, k, len(sources)))
        mine = [f for p in parts if p.reads == source for f in range(p.first, p.stop)]
        scores = (z_TF.relu() * norm_F)[:, mine]
        best = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :share]
        kept = torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, True)
        mask[:, mine] = kept & (scores > 0)
    return mask


def dense(entries, shape):
    """Return entries as a dense mask and dense values."""
    mask = torch.zeros(shape, dtype=torch.bool)
    values = torch.zeros(shape, dtype=entries.values.dtype)
    mask[entries.tokens, entries.features] = True
    values[entries.tokens, entries.features] = entries.values
    return mask, values
