"""Metrics of one dictionary on the test split: from the stores, and spliced into the model.

`metrics` defines each number. Reconstruction and sparsity are over all valid test tokens; what
needs the model is over the first `max_tokens` of them, since it takes three forward passes.

Axes: T tokens, L layers of the window, D d_model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from deepseemoe.activations.store import ActivationStore
from deepseemoe.dictionary.batches import open_stores, valid_blocks
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.metrics import Reconstruction, Sparsity
from deepseemoe.dictionary.splice_metrics import splice_batches, splice_metrics
from deepseemoe.dictionary.weights import decoder_norms
from deepseemoe.model.adapter import MoeModel
from deepseemoe.runtime.files import write_json

FORMAT = 1


def evaluate_dictionary(
    folder: Path,
    *,
    model: MoeModel,
    stores: Sequence[Path],
    tokens: Sequence[Path],
    metrics: Path,
    max_tokens: int = 32_768,
    batch_sequences: int = 8,
) -> dict[str, Any]:
    """Measure the dictionary in `folder` on test stores and the token shards they were made of.

    Stores and shards stand in the same order. Computes where the model is, writes `metrics` (JSON)
    and returns what it wrote. Raises ValueError where stores and shards do not belong together.
    """
    dictionary = Dictionary.load(folder).to(model.device)
    opened = open_stores(stores, _sites(dictionary))
    n_tokens = sum(store.n_tokens for store in opened)
    batches = splice_batches(opened, tokens, max_tokens=max_tokens, batch_sequences=batch_sequences)
    values = {
        "format": FORMAT,
        "kind": dictionary.kind,
        "window": str(dictionary.window),
        "k": dictionary.k,
        "layers": list(dictionary.window.layers),
        **stored_metrics(dictionary, opened),
        **splice_metrics(dictionary, model, batches, max_tokens=min(max_tokens, n_tokens)),
    }
    write_json(metrics, values)
    return values


def stored_metrics(dictionary: Dictionary, stores: Sequence[ActivationStore]) -> dict[str, Any]:
    """Return reconstruction and sparsity over all valid rows of stores."""
    names = _sites(dictionary)
    written = [names.index(name) for name in dictionary.written_names]
    fit = Reconstruction(dictionary.writing.mean_LD)
    sparsity = Sparsity(dictionary.d_dict)
    for block in (block for store in stores for block in valid_blocks(store, names)):
        both = torch.from_numpy(block).to(dictionary.norm_F.device)
        x_TLD, y_TLD = both[:, : dictionary.n_layers], both[:, written]
        entries = dictionary.entries(x_TLD)
        fit.add(y_TLD, dictionary.reconstruct(entries, n_tokens=len(x_TLD), x_TLD=x_TLD))
        sparsity.add(entries.features, len(x_TLD))
    fvu_L = fit.fvu_L[dictionary.outputs]
    inputs = {}
    if dictionary.reconstruct_input:
        inputs = {"fvu_inputs": fit.fvu_L[:: dictionary.n_slots // dictionary.n_layers].tolist()}
    return {
        "fvu": fvu_L.tolist(),
        "fvu_mean": float(fvu_L.mean()),
        **inputs,
        "l0": sparsity.l0,
        "dead_fraction": sparsity.dead_fraction,
        "decoder_norm_share": decoder_norm_share(dictionary),
        "n_tokens": fit.n_tokens,
    }


def _sites(dictionary: Dictionary) -> tuple[str, ...]:
    """Return what it reads, then what it writes; each site once."""
    return tuple(dict.fromkeys((*dictionary.read_names, *dictionary.written_names)))


def decoder_norm_share(dictionary: Dictionary) -> list[float]:
    """Return the share of each layer in the decoder norms of all features, normalised units."""
    total_S = torch.zeros(dictionary.n_slots, device=dictionary.norm_F.device)
    for part, decoder_FW in zip(dictionary.parts, dictionary.weights.decoders, strict=True):
        span = slice(part.writes.start, part.writes.stop)
        total_S[span] += decoder_norms(decoder_FW, dictionary.d_model).sum(0)
    total_L = total_S[dictionary.outputs]
    return (total_L / total_L.sum().clamp_min(torch.finfo(total_L.dtype).tiny)).tolist()
