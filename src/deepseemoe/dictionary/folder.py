"""The folder of a dictionary: `weights.safetensors` and `config.json`, each whole or not at all.

Tensors: `encoder` (F, layers read, D) and `decoder` (F, slots, D), their biases, and mean and scale
of what is read and written, all in normalised units; `skip` (L, D, D) and `threshold` (F,) where
there are any. The same dictionary gives the same bytes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepseemoe.dictionary.gates import PerFeature, gate_of
from deepseemoe.dictionary.layout import parts_of
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.dictionary.weights import Weights, assemble, split
from deepseemoe.names import Window
from deepseemoe.runtime.files import growing, read_json, write_json

if TYPE_CHECKING:
    from deepseemoe.dictionary.dictionary import Dictionary

FORMAT = 2
WEIGHTS, CONFIG = "weights.safetensors", "config.json"
KINDS = ("crosscoder", "transcoder")
DESCRIBED = (
    "kind",
    "k",
    "reads",
    "writes",
    "l0",
    "activation",
    "cross_layer",
    "reconstruct_input",
)
"""Fields that `config.json` holds as they are."""


def write_folder(dictionary: "Dictionary", folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the two files of a dictionary."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in _tensors(dictionary).items()}
    with growing(folder / WEIGHTS) as partial:
        save_file(tensors, partial)
    described = {
        "format": FORMAT,
        "window": str(dictionary.window),
        "d_model": dictionary.d_model,
        "d_dict": dictionary.d_dict,
        "gate": dictionary.gate.described(),
        **{name: getattr(dictionary, name) for name in DESCRIBED},
        "manifest": dict(manifest),
    }
    write_json(folder / CONFIG, described)


def _tensors(dictionary: "Dictionary") -> dict[str, Tensor]:
    weights, d_model = dictionary.weights, dictionary.d_model
    reading, writing, n_slots = dictionary.reading, dictionary.writing, dictionary.n_slots
    tensors = {
        "encoder": torch.cat(weights.encoders).view(dictionary.d_dict, -1, d_model),
        "encoder_bias": weights.encoder_bias,
        "decoder": assemble(weights.decoders, dictionary.parts, columns="writes", n_layers=n_slots),
        "decoder_bias": weights.decoder_bias.view(n_slots, d_model),
        "read_mean": reading.mean_LD,
        "read_scale": reading.scale_L,
        "write_mean": writing.mean_LD.clone(),  # a crosscoder's are those that it reads, and
        "write_scale": writing.scale_L.clone(),  # safetensors refuses shared memory
    }
    if weights.skips:
        tensors["skip"] = torch.stack(weights.skips)
    if isinstance(dictionary.gate, PerFeature):
        tensors["threshold"] = dictionary.gate.threshold_F
    return tensors


def read_folder(folder: Path) -> dict[str, Any]:
    """Return the fields of `Dictionary`; raise ValueError where there is none of this format."""
    described, tensors = _read_config(folder), _read_weights(folder / WEIGHTS)
    return {
        "window": Window.parse(described["window"]),
        "weights": _weights(described, tensors),
        "reading": Normalisation(tensors["read_mean"], tensors["read_scale"]),
        "writing": Normalisation(tensors["write_mean"], tensors["write_scale"]),
        "gate": gate_of(described["gate"], tensors.get("threshold")),
        **{name: described[name] for name in DESCRIBED},
    }


def _weights(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Weights:
    parts = parts_of(
        described["kind"],
        n_layers=len(Window.parse(described["window"]).layers),
        d_dict=described["d_dict"],
        cross_layer=described["cross_layer"],
        reconstruct_input=described["reconstruct_input"],
    )
    encoders = tensors["encoder"].flatten(1).split([part.n_features for part in parts])
    return Weights(
        tuple(encoder.contiguous() for encoder in encoders),
        tensors["encoder_bias"],
        split(tensors["decoder"], parts, columns="writes"),
        tensors["decoder_bias"].flatten(),
        skips=tuple(tensors["skip"]) if "skip" in tensors else (),
    )


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Return `weights.safetensors`; raise ValueError where it is damaged."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error}); run train_dictionary again") from None


def _read_config(folder: Path) -> dict[str, Any]:
    """Return `config.json`; raise ValueError where it is missing or of another format or kind."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder}: no dictionary, it has no {CONFIG}; run train_dictionary")
    described = read_json(path)
    found, kind = described.get("format"), described.get("kind")
    if found != FORMAT:
        raise ValueError(f"{path}: format {found}, expected {FORMAT}; run train_dictionary again")
    if kind not in KINDS:
        raise ValueError(f"{path}: kind {kind!r}, expected one of {', '.join(KINDS)}")
    return described
