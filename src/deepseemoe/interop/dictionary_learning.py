"""dictionary_learning 0.1: `ae.pt` (a state dict) and `config.json`, written and read.

BatchTopK is `BatchTopKSAE`, whose one threshold is on activations: activations are made scores, and
it is exact. TopK is `AutoEncoderTopK`, everything else `JumpReluAutoEncoder`, exact both. The first
two subtract b_dec before they encode.

Axes: F features, C columns (activation_dim).
"""

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import PerFeature, TopK, Weighted
from deepseemoe.interop.cards import card
from deepseemoe.interop.dictionary_learning_config import CONFIG, hook_names, trainer_of
from deepseemoe.interop.folders import (
    described,
    layer_folder,
    own_bias,
    refuse,
    refuse_unless_square,
    source_layer,
)
from deepseemoe.interop.folding import Block, fold, inclusive, strict
from deepseemoe.interop.peer_files import Found, Tensors
from deepseemoe.runtime.files import write_json, write_text

logger = logging.getLogger(__name__)

__all__ = ["hook_names", "read", "sizes", "write"]

WEIGHTS = "ae.pt"

EXACT = (
    "Exact: normalisation is folded into the weights, so it reads and writes raw activations; "
    "thresholds are per feature, and activations are those of DeepSeeMoE."
)
SCORED = (
    "Exact outputs: normalisation is folded into the weights. Activations are multiplied by each "
    "feature's decoder norm (decoders divided by it), since {name} has one rule for all features."
)
USE = """```python
from dictionary_learning.utils import load_dictionary

sae, config = load_dictionary("{folder}", device="cpu")
features = sae.encode(x)  # x: (tokens, {d_in}) float32
output = sae.decode(features)
```"""


def write(dictionary: Dictionary, folder: Path, *, model: str) -> None:
    """Write a dictionary for dictionary_learning into an empty folder.

    A transcoder without cross_layer gets a folder for each source layer. Raises ValueError for
    other transcoders over several layers, and for skip connections.
    """
    refuse_unless_square(dictionary, "dictionary_learning")
    if dictionary.weights.skips:
        refuse(dictionary, "dictionary_learning", "it has skip connections")
    folded, name = fold(dictionary), _class_of(dictionary)
    for block in folded.blocks:
        home = layer_folder(folder, dictionary, block)
        state = _state(dictionary, block, own_bias(folded, block, dictionary))
        _save(home / WEIGHTS, state)
        write_json(home / CONFIG, _config(dictionary, block, name, model))
    write_text(folder / "README.md", _card(dictionary, name, model))


def _class_of(dictionary: Dictionary) -> str:
    """Return the class that a dictionary is in dictionary_learning."""
    if isinstance(dictionary.gate, TopK):
        return "AutoEncoderTopK"
    is_batch = isinstance(dictionary.gate, Weighted) and dictionary.activation == "batch_topk"
    return "BatchTopKSAE" if is_batch else "JumpReluAutoEncoder"


def _state(dictionary: Dictionary, block: Block, bias_C: Tensor) -> dict[str, Tensor]:
    """Return the state dict of a block."""
    if _class_of(dictionary) == "JumpReluAutoEncoder":
        return {
            "W_enc": block.encoder_FR.t(),
            "b_enc": block.encoder_bias_F,
            "W_dec": block.decoder_FW,
            "b_dec": bias_C,
            "threshold": strict(block.threshold_F),
        }
    scored = block.scored().with_input_bias(bias_C)
    # One for all: threshold / w_f times weight_F, which is w_f but for a common factor.
    threshold = scored.threshold_F.max()
    return {
        "k": torch.tensor(block.k or dictionary.k, dtype=torch.int32),
        "threshold": strict(threshold) if block.k is None else torch.tensor(-1.0),
        "decoder.weight": scored.decoder_FW.t(),
        "encoder.weight": scored.encoder_FR,
        "encoder.bias": scored.encoder_bias_F,
        "b_dec": bias_C,
    }


def _save(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict; the same tensors give the same bytes, whatever the file's name."""
    buffer = io.BytesIO()
    torch.save({name: tensor.contiguous().clone() for name, tensor in state.items()}, buffer)
    path.write_bytes(buffer.getbuffer())


def _config(dictionary: Dictionary, block: Block, name: str, model: str) -> dict[str, Any]:
    first, width = source_layer(dictionary, block), block.encoder_FR.shape[1]
    names = [f"{dictionary.writes}_layer_{first + place}" for place in range(len(block.reads))]
    trainer = {
        "dict_class": name,
        "k": block.k or dictionary.k,
        "activation_dim": width,
        "dict_size": len(block.encoder_FR),
        "layer": first,
        "lm_name": model,
        "submodule_name": names[0],
        **({"submodule_names": names} if len(names) > 1 else {}),
        "device": "cpu",
    }
    reads_what_it_writes = dictionary.reads == dictionary.writes
    return {
        "trainer": trainer,
        "buffer": {
            "d_submodule": width,
            "io": "out" if reads_what_it_writes else "in_and_out",
            "ctx_len": None,
        },
        "deepseemoe": described(dictionary, model),
    }


def _card(dictionary: Dictionary, name: str, model: str) -> str:
    is_jump = name == "JumpReluAutoEncoder"
    notes = [EXACT if is_jump else SCORED.format(name=name)]
    if dictionary.kind == "crosscoder" and dictionary.n_layers > 1:
        notes.append(f"It reads and writes {', '.join(dictionary.read_names)}, side by side.")
    is_one = len(dictionary.parts) == 1
    n_read = len(dictionary.parts[0].reads)
    use = USE.format(
        folder="." if is_one else f"layer_{dictionary.window.first}",
        d_in=n_read * dictionary.d_model,
    )
    return card(
        dictionary,
        format="dictionary_learning",
        library="dictionary_learning",
        model=model,
        notes=notes,
        use=use,
    )


def read(folder: Path) -> Found:
    """Return the dictionary in a folder of dictionary_learning.

    `config.json` is what its trainers write, or the configuration of a sweep with one architecture,
    as beside andyrdt's gpt-oss SAEs. Raises ValueError where files, keys or shapes are missing, or
    for a class that has no counterpart.
    """
    trainer = trainer_of(folder)
    tensors = Tensors.of_torch(folder / WEIGHTS)
    name = trainer["dict_class"]
    is_plain = "W_enc" in tensors  # parameters themselves, (C, F), not those of linear modules
    width, n_features = _shape(tensors, is_plain)
    _check_sizes(folder, trainer, width, n_features)
    if is_plain:
        encoder_FC = tensors.get("W_enc", (width, n_features)).t()
        decoder_FC = tensors.get("W_dec", (n_features, width))
    else:
        encoder_FC = tensors.get("encoder.weight", (n_features, width))
        decoder_FC = tensors.get("decoder.weight", (width, n_features)).t()
    bias_C = tensors.get(_bias_name(name), (width,))
    bias = {"GatedAutoEncoder": "mag_bias"}.get(name, "b_enc" if is_plain else "encoder.bias")
    found = Found(
        where=str(folder / WEIGHTS),
        encoder_FC=encoder_FC.contiguous(),
        encoder_bias_F=tensors.get(bias, (n_features,)),
        decoder_FC=decoder_FC.contiguous(),
        decoder_bias_C=bias_C,
        gate=PerFeature(torch.zeros(n_features)),
        hook_names=hook_names(folder),
        k=_k(folder, trainer, tensors),
    )
    found = _gated(name, found, tensors)
    subtracts = name not in ("JumpReluAutoEncoder", "AutoEncoderNew")
    return found.with_input_bias(-bias_C) if subtracts else found


def sizes(folder: Path) -> tuple[int, int]:
    """Return columns read and features, at the cost of a header."""
    tensors = Tensors.of_torch(folder / WEIGHTS)
    return _shape(tensors, "W_enc" in tensors)


def _shape(tensors: Tensors, is_plain: bool) -> tuple[int, int]:
    """Return columns and features."""
    shape = tuple(tensors.raw("W_enc" if is_plain else "encoder.weight").shape)
    if len(shape) != 2:
        raise ValueError(f"{tensors.path}: the encoder has the shape {shape}, expected a matrix")
    return shape if is_plain else shape[::-1]


def _check_sizes(folder: Path, trainer: Mapping[str, Any], width: int, n_features: int) -> None:
    """Raise ValueError where tensors are of other sizes than `config.json` says."""
    for key, found in (("activation_dim", width), ("dict_size", n_features)):
        said = trainer.get(key, found)
        if said != found:
            raise ValueError(
                f"{folder / WEIGHTS}: {key} is {found}, expected {said} by {folder / CONFIG}; the "
                "two files are not of one dictionary"
            )


def _bias_name(name: str) -> str:
    plain = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}
    return plain.get(name, "decoder_bias" if name == "GatedAutoEncoder" else "b_dec")


def _k(folder: Path, trainer: Mapping[str, Any], tensors: Tensors) -> int | None:
    """Return k; raise ValueError where the two files say another."""
    said = trainer.get("k")
    held = int(tensors.get("k", ())) if "k" in tensors else said
    if said is not None and held != said:
        raise ValueError(f"{folder / WEIGHTS}: k is {held}, expected {said} by {folder / CONFIG}")
    return held


def _gated(name: str, found: Found, tensors: Tensors) -> Found:
    """Return what was found with its gate."""
    n_features = len(found.encoder_FC)
    match name:
        case "AutoEncoderTopK":
            if not found.k:
                raise ValueError(f"{tensors.path}: no tensor 'k', and no trainer.k in {CONFIG}")
            return found._replace(gate=TopK(found.k, weighted=False), activation="topk")
        case "BatchTopKSAE" | "MatryoshkaBatchTopKSAE":
            threshold = float(tensors.get("threshold", ()))
            if threshold < 0:
                logger.warning(
                    "%s: threshold %g was never set, so every feature above 0 is active, as in "
                    "dictionary_learning itself",
                    tensors.path,
                    threshold,
                )
            gate = PerFeature(inclusive(torch.full((n_features,), threshold)))
            return found._replace(gate=gate, activation="batch_topk")
        case "JumpReluAutoEncoder":
            gate = PerFeature(inclusive(tensors.get("threshold", (n_features,))))
            return found._replace(gate=gate, activation="jumprelu")
        case "GatedAutoEncoder":
            r_mag_F, b_gate_F = (tensors.get(key, (n_features,)) for key in ("r_mag", "gate_bias"))
            return found.gated(r_mag_F, b_gate_F)
    return found
