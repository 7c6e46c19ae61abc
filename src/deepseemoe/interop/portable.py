"""Safetensors, JSON and a model card with the few lines of torch that use them; written only.

Every dictionary can be written so, exactly.

    encoder (F, L, D)   encoder_bias (F,)   decoder (F, S, D)   decoder_bias (S, D)
    threshold (F,)      weight (F,)         skip (L, D, D), where there is one

    z      = sum over l of <encoder_fl, raw_l> + encoder_bias_f
    active : z > 0 and z >= threshold_f; with `top_k`, the top_k[l] highest z * weight of the
             features whose source layer is l
    output = sum over active f of z_f decoder_f + decoder_bias + skip @ raw at output slots
"""

from pathlib import Path

import torch

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.interop.cards import card
from deepseemoe.interop.folders import described, save_tensors
from deepseemoe.interop.folding import Folded, fold
from deepseemoe.runtime.files import write_json, write_text

CONFIG, WEIGHTS = "config.json", "dictionary.safetensors"
FORMAT = 1

EXACT = (
    "Exact: normalisation is folded into the weights, so it reads and writes raw activations; "
    "thresholds are per feature, and activations are those of DeepSeeMoE."
)
USE = """```python
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

t, config = load_file("dictionary.safetensors"), json.loads(Path("config.json").read_text())
# x: (tokens, {n_layers}, {d_model}) float32, raw {reads} of layers {layers}
z = torch.einsum("tld,fld->tf", x, t["encoder"]) + t["encoder_bias"]
{select}
output = torch.einsum("tf,fsd->tsd", z * active, t["decoder"]) + t["decoder_bias"]{skip}
```"""
THRESHOLDS = 'active = (z > 0) & (z >= t["threshold"])'
RANKS = """active = torch.zeros_like(z, dtype=bool)
for first, stop, k in config["top_k"]:  # features of one source layer
    score = z[:, first:stop].relu() * t["weight"][first:stop]
    active[:, first:stop].scatter_(1, score.topk(k).indices, True)
active &= z > 0"""
SKIP = """
output[:, {start}::{step}] += torch.einsum("tld,led->tle", x, t["skip"])"""


def write(dictionary: Dictionary, folder: Path, *, model: str) -> None:
    """Write a dictionary into an empty folder."""
    folded = fold(dictionary)
    n_layers, n_slots, d_model = dictionary.n_layers, dictionary.n_slots, dictionary.d_model
    encoder_FLD = torch.zeros(dictionary.d_dict, n_layers, d_model)
    decoder_FSD = torch.zeros(dictionary.d_dict, n_slots, d_model)
    for part, block in zip(dictionary.parts, folded.blocks, strict=True):
        rows = slice(part.first, part.stop)
        shape = part.n_features, -1, d_model
        encoder_FLD[rows, block.reads.start : block.reads.stop] = block.encoder_FR.view(shape)
        decoder_FSD[rows, block.writes.start : block.writes.stop] = block.decoder_FW.view(shape)
    tensors = {
        "encoder": encoder_FLD,
        "encoder_bias": torch.cat([block.encoder_bias_F for block in folded.blocks]),
        "decoder": decoder_FSD,
        "decoder_bias": folded.decoder_bias_SD,
        "threshold": torch.cat([block.threshold_F for block in folded.blocks]),
        "weight": torch.cat([block.weight_F for block in folded.blocks]),
        **({"skip": torch.stack(folded.skips)} if folded.skips else {}),
    }
    save_tensors(folder / WEIGHTS, tensors)
    config = {
        "format": FORMAT,
        **described(dictionary, model),
        "d_model": d_model,
        "d_dict": dictionary.d_dict,
        "source_layer_sizes": [part.n_features for part in dictionary.parts],
        "top_k": _top_k(dictionary, folded),
        "output_slots": list(range(n_slots)[dictionary.outputs]),
    }
    write_json(folder / CONFIG, config)
    write_text(folder / "README.md", _card(dictionary, folded, model))


def _top_k(dictionary: Dictionary, folded: Folded) -> list[tuple[int, int, int]] | None:
    """Return first and last feature (not in it) of each source layer, and its k."""
    if folded.blocks[0].k is None:
        return None
    pairs = zip(dictionary.parts, folded.blocks, strict=True)
    return [(part.first, part.stop, block.k or 0) for part, block in pairs]


def _card(dictionary: Dictionary, folded: Folded, model: str) -> str:
    step = dictionary.n_slots // dictionary.n_layers
    use = USE.format(
        n_layers=dictionary.n_layers,
        d_model=dictionary.d_model,
        reads=dictionary.reads,
        layers=", ".join(map(str, dictionary.window.layers)),
        select=THRESHOLDS if folded.blocks[0].k is None else RANKS,
        skip=SKIP.format(start=step - 1, step=step) if folded.skips else "",
    )
    notes = [EXACT, "`config.json` says what each tensor is of; slots are `writes`, in order."]
    return card(
        dictionary,
        format="any tool: safetensors and JSON",
        library="safetensors",
        model=model,
        notes=notes,
        use=use,
    )
