"""circuit-tracer 0.5: a set of per-layer transcoders, or a cross-layer transcoder (CLT); written.

    per layer    layer_{i}.safetensors    W_enc (F, D), b_enc, W_dec (F, D), b_dec,
                                          activation_function.threshold (F,), W_skip (D, D)
    CLT          W_enc_{i}.safetensors    W_enc_i (F, D), b_enc_i, b_dec_i, threshold_i
                 W_dec_{i}.safetensors    W_dec_i (F, layers from i on, D)

with equally many features at every layer of the model, from 0 on. Layers outside the window get
features that never fire and write nothing, and so do layers with a feature less than others. So a
replacement model built from a window knows nothing of the MLPs of other layers.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import TopK
from deepseemoe.interop.cards import card
from deepseemoe.interop.folders import described, refuse, save_tensors
from deepseemoe.interop.folding import Block, Folded, fold, strict
from deepseemoe.runtime.files import write_text

FORMAT = "circuit-tracer"

INPUT_HOOKS = {"moe_in": "mlp.hook_in", "resid_mid": "hook_resid_mid"}
OUTPUT_HOOK = "mlp.hook_out"

USE = """```python
from pathlib import Path

import torch
import yaml
from circuit_tracer.utils.hf_utils import load_transcoders

{load}
```
For the model, upload this folder and `ReplacementModel.from_pretrained("{model}", "USER/REPO")`."""
LOAD_SET = """config = yaml.safe_load(Path("config.yaml").read_text())  # with paths from here
transcoders = load_transcoders(config, dtype=torch.float32)"""
LOAD_CLT = """from circuit_tracer.transcoder.cross_layer_transcoder import load_clt

transcoders = load_clt(".", "{reads}", "{writes}", dtype=torch.float32)"""


def write(dictionary: Dictionary, folder: Path, *, model: str, n_layers: int) -> None:
    """Write a transcoder for circuit-tracer into an empty folder, padded to `n_layers` layers.

    Raises ValueError for a crosscoder, TopK, pre/post, a CLT with skip connections, or where the
    window goes beyond the model.
    """
    _check(dictionary, n_layers)
    folded = fold(dictionary)
    n_features = max(len(block.encoder_FR) for block in folded.blocks)
    padded = [block.padded(n_features) for block in folded.blocks]
    is_clt = dictionary.cross_layer and dictionary.n_layers > 1
    files = _clt if is_clt else _per_layer
    for name, tensors in files(dictionary, folded, padded, n_layers):
        save_tensors(folder / name, tensors)
    config = _config(dictionary, is_clt, model, n_layers)
    write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    write_text(folder / "README.md", _card(dictionary, is_clt, model, n_layers))


def padded_layers(dictionary: Dictionary, n_layers: int) -> list[int]:
    """Return the layers of the model that get features which never fire."""
    return [layer for layer in range(n_layers) if layer not in dictionary.window.layers]


def _check(dictionary: Dictionary, n_layers: int) -> None:
    if dictionary.kind != "transcoder":
        refuse(dictionary, FORMAT, "it reconstructs the residual stream, not MLPs")
    if dictionary.reconstruct_input:
        refuse(dictionary, FORMAT, "it writes what it reads as well (reconstruct_input)")
    if dictionary.reads not in INPUT_HOOKS:
        refuse(dictionary, FORMAT, f"it reads {dictionary.reads}")
    if isinstance(dictionary.gate, TopK):
        refuse(dictionary, FORMAT, "it keeps the k highest features of a token")
    if dictionary.weights.skips and dictionary.cross_layer and dictionary.n_layers > 1:
        refuse(dictionary, FORMAT, "load_clt of circuit-tracer reads no skip connections")
    if dictionary.window.last >= n_layers:
        raise ValueError(
            f"--n-layers {n_layers}: the window {dictionary.window} goes beyond it; give the "
            "number of layers of the model"
        )


def _per_layer(
    dictionary: Dictionary, folded: Folded, blocks: list[Block], n_layers: int
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each file of a set of per-layer transcoders."""
    for layer in range(n_layers):
        place = layer - dictionary.window.first
        inside = layer in dictionary.window.layers
        block = blocks[place] if inside else _blank(blocks[0])
        bias_D = folded.decoder_bias_SD[place if inside else 0]
        tensors = {
            "W_enc": block.encoder_FR,
            "W_dec": block.decoder_FW,
            "b_enc": block.encoder_bias_F,
            "b_dec": bias_D * inside,
            "activation_function.threshold": strict(block.threshold_F),
        }
        if folded.skips:
            tensors["W_skip"] = folded.skips[place if inside else 0] * inside
        yield f"layer_{layer}.safetensors", tensors


def _clt(
    dictionary: Dictionary, folded: Folded, blocks: list[Block], n_layers: int
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each file of a cross-layer transcoder."""
    d_model, first = dictionary.d_model, dictionary.window.first
    for layer in range(n_layers):
        place = layer - first
        inside = layer in dictionary.window.layers
        block = blocks[place] if inside else _blank(blocks[0])
        n_features = len(block.encoder_FR)
        decoder_FLD = torch.zeros(n_features, n_layers - layer, d_model)
        if inside:
            decoder_FLD[:, : len(block.writes)] = block.decoder_FW.view(n_features, -1, d_model)
        bias_D = folded.decoder_bias_SD[place if inside else 0]
        yield (
            f"W_enc_{layer}.safetensors",
            {
                f"W_enc_{layer}": block.encoder_FR,
                f"b_enc_{layer}": block.encoder_bias_F,
                f"b_dec_{layer}": bias_D * inside,
                f"threshold_{layer}": strict(block.threshold_F),
            },
        )
        yield f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": decoder_FLD}


def _blank(block: Block) -> Block:
    """Return a block of features that never fire and write nothing."""
    return block._replace(
        encoder_FR=torch.zeros_like(block.encoder_FR),
        encoder_bias_F=torch.zeros_like(block.encoder_bias_F),
        decoder_FW=torch.zeros_like(block.decoder_FW),
        threshold_F=torch.zeros_like(block.threshold_F),
    )


def _config(dictionary: Dictionary, is_clt: bool, model: str, n_layers: int) -> dict[str, Any]:
    names = {} if is_clt else {"transcoders": [f"layer_{i}.safetensors" for i in range(n_layers)]}
    return {
        "model_name": model,
        "model_kind": "cross_layer_transcoder" if is_clt else "transcoder_set",
        "feature_input_hook": INPUT_HOOKS[dictionary.reads],
        "feature_output_hook": OUTPUT_HOOK,
        "scan": f"deepseemoe/{dictionary.window}",
        **names,
        "deepseemoe": described(dictionary, model)
        | {"padded_layers": padded_layers(dictionary, n_layers)},
    }


def _card(dictionary: Dictionary, is_clt: bool, model: str, n_layers: int) -> str:
    padded = padded_layers(dictionary, n_layers)
    notes = [
        "Exact on the layers of the window: normalisation is folded into the weights, thresholds "
        "are per feature, and activations are those of DeepSeeMoE.",
    ]
    if padded:
        notes.append(
            f"PADDED: layers {', '.join(map(str, padded))} of {n_layers} have no dictionary; "
            "their features never fire and write 0. Attribution through the MLPs of those layers "
            "means nothing."
        )
    hooks = {"reads": INPUT_HOOKS[dictionary.reads], "writes": OUTPUT_HOOK}
    load = LOAD_CLT.format(**hooks) if is_clt else LOAD_SET
    use = USE.format(load=load, model=model)
    return card(
        dictionary, format=FORMAT, library="circuit-tracer", model=model, notes=notes, use=use
    )
