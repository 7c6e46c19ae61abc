"""SAELens 6: `cfg.json` and `sae_weights.safetensors`, written and read.

A crosscoder is one `jumprelu` SAE over the columns of all its layers, or `topk`: exact. SAELens has
no transcoder over several source layers, so each source layer gets a folder, which writes all
layers that its features write; what the folders write adds up to the reconstruction.

Left out at import, by name: what SAELens does to activations before encoding (other than
subtracting b_dec), since a dictionary has no place for it.

Axes: F features, C columns (d_in), W columns written.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.gates import PerFeature, TopK
from deepseemoe.interop.cards import card
from deepseemoe.interop.folders import (
    described,
    layer_folder,
    own_bias,
    own_skip,
    refuse,
    save_tensors,
)
from deepseemoe.interop.folding import Block, Folded, fold, inclusive, strict
from deepseemoe.interop.peer_files import Found, Tensors, read_object, value
from deepseemoe.interop.sites import lens_name, module_name
from deepseemoe.runtime.files import write_json, write_text

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
VERSION = "6.54.12"
"""Of SAELens, whose layout this is; without one its loader drops all metadata."""

EXACT = (
    "Exact: normalisation is folded into the weights, so it reads and writes raw activations; "
    "thresholds are per feature, and activations are those of DeepSeeMoE."
)
SCORED = (
    "Exact outputs: normalisation is folded into the weights. Activations are multiplied by each "
    "feature's decoder norm (decoders divided by it), since SAELens ranks activations."
)
USE = """```python
from sae_lens import SAE

sae = SAE.load_from_disk("{folder}")
features = sae.encode(x)  # x: (tokens, {d_in}) float32, {names}
output = sae.decode(features)
```"""


def write(dictionary: Dictionary, folder: Path, *, model: str) -> None:
    """Write a dictionary for SAELens into an empty folder.

    Raises ValueError for a transcoder with TopK, which SAELens has none of.
    """
    if dictionary.kind == "transcoder" and isinstance(dictionary.gate, TopK):
        refuse(dictionary, "SAELens", "it keeps the k highest features of a transcoder's token")
    folded = fold(dictionary)
    for block in folded.blocks:
        home = layer_folder(folder, dictionary, block)
        config, tensors = _exported(dictionary, folded, block, model)
        save_tensors(home / WEIGHTS, tensors)
        write_json(home / CONFIG, config)
    write_text(folder / "README.md", _card(dictionary, model))


def _exported(
    dictionary: Dictionary, folded: Folded, block: Block, model: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return cfg.json and the tensors of one block."""
    block = block if block.k is None else block.scored()
    skip_WR = own_skip(folded, block, dictionary)
    tensors = {
        "W_enc": block.encoder_FR.t(),
        "b_enc": block.encoder_bias_F,
        "W_dec": block.decoder_FW,
        "b_dec": own_bias(folded, block, dictionary),
        **({"threshold": strict(block.threshold_F)} if block.k is None else {}),
        **({} if skip_WR is None else {"W_skip": skip_WR}),
    }
    is_transcoder = dictionary.kind == "transcoder"
    architecture = "topk" if block.k else "jumprelu"
    if is_transcoder:
        architecture += "_transcoder" if skip_WR is None else "_skip_transcoder"
    config = {
        "architecture": architecture,
        "d_in": block.encoder_FR.shape[1],
        "d_sae": len(block.encoder_FR),
        **({"d_out": block.decoder_FW.shape[1]} if is_transcoder else {}),
        **({"k": block.k, "rescale_acts_by_decoder_norm": False} if block.k else {}),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": _metadata(dictionary, block, model),
    }
    return config, tensors


def _metadata(dictionary: Dictionary, block: Block, model: str) -> dict[str, Any]:
    """Return what SAELens and its readers look up; keys that it does not know are kept."""
    read = [lens_name(dictionary.read_names[layer]) for layer in block.reads]
    written = [lens_name(dictionary.written_names[slot]) for slot in block.writes]
    layers = [dictionary.window.first + layer for layer in block.reads]
    return {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "model_name": model,
        "hook_name": read[0],
        "hook_names": read,
        **({"hook_name_out": written[0], "hook_names_out": written} if written != read else {}),
        "hf_hook_name": f"model.{module_name(dictionary.writes, layers[:1])}",
        "hook_head_index": None,
        "prepend_bos": True,
        "training_architecture": dictionary.activation.replace("_", ""),
        **{f"deepseemoe_{name}": v for name, v in described(dictionary, model).items()},
    }


def _card(dictionary: Dictionary, model: str) -> str:
    notes = [SCORED if isinstance(dictionary.gate, TopK) else EXACT]
    if len(dictionary.parts) > 1:
        notes.append(
            "One folder for each source layer, `layer_N`. A folder writes the columns of "
            "`metadata.hook_names_out`, one layer after another; add what the folders write at a "
            "layer. Each layer's decoder bias is in its own folder."
        )
    elif dictionary.n_layers > 1:
        notes.append("It reads and writes the layers of `metadata.hook_names`, side by side.")
    if dictionary.weights.skips:
        notes.append("`forward` adds the skip connection, `decode` does not.")
    n_read = len(dictionary.parts[0].reads)
    use = USE.format(
        folder="." if len(dictionary.parts) == 1 else f"layer_{dictionary.window.first}",
        d_in=n_read * dictionary.d_model,
        names=", ".join(dictionary.read_names[:n_read]),
    )
    return card(dictionary, format="SAELens", library="saelens", model=model, notes=notes, use=use)


SKIPPED_KEYS = ("finetuning_scaling_factor", "scaling_factor")
"""Keys of old files that multiply what is decoded."""

ARCHITECTURES = (
    "standard",
    "topk",
    "jumprelu",
    "gated",
    "batchtopk",
    "matryoshka_batchtopk",
)


def read(folder: Path) -> Found:
    """Return the dictionary in a folder of SAELens, an inference or a training checkpoint.

    Raises ValueError where files, keys or shapes are missing, or it does what ours cannot.
    """
    where, config = folder / CONFIG, _config(folder)
    architecture = value(where, config, "architecture", str)
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"{where}: architecture {architecture!r}; can be imported: {', '.join(ARCHITECTURES)}"
        )
    _check_inputs(where, config)
    tensors = Tensors.of_safetensors(folder / WEIGHTS)
    d_in, d_sae = (value(where, config, name, int) for name in ("d_in", "d_sae"))
    decoder_FC = tensors.get("W_dec", (d_sae, d_in))
    bias_C = tensors.get("b_dec", (d_in,))
    encoder_CF = tensors.get("W_enc", (d_in, d_sae))
    found = Found(
        where=str(where),
        encoder_FC=encoder_CF.t().contiguous(),
        encoder_bias_F=tensors.get("b_mag" if architecture == "gated" else "b_enc", (d_sae,)),
        decoder_FC=decoder_FC,
        decoder_bias_C=bias_C,
        gate=TopK(1),
        hook_names=_hook_names(config),
        k=_k(config),
    )
    found = _gated(architecture, found, config, tensors)
    return found.with_input_bias(-bias_C) if config.get("apply_b_dec_to_input", True) else found


def sizes(folder: Path) -> tuple[int, int]:
    """Return columns read and features, from cfg.json, and see that the weights are whole."""
    where, config = folder / CONFIG, _config(folder)
    d_in, d_sae = (value(where, config, name, int) for name in ("d_in", "d_sae"))
    Tensors.check_safetensors(folder / WEIGHTS)
    return d_in, d_sae


def hook_names(folder: Path) -> tuple[str, ...] | None:
    """Return the hook names that cfg.json says, None where it says none."""
    return _hook_names(_config(folder))


def _config(folder: Path) -> dict[str, Any]:
    """Return cfg.json; keys of files before version 6 under their new names."""
    config = read_object(folder / CONFIG, "SAELens")
    old = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
    config = {old.get(key, key): found for key, found in config.items()}
    if "architecture" not in config and "d_sae" in config:
        config["architecture"] = "standard"
    if config.get("activation_fn") == "topk":
        config |= {"architecture": "topk", "k": (config.get("activation_fn_kwargs") or {}).get("k")}
    return config


def _metadata_of(config: dict[str, Any]) -> dict[str, Any]:
    return config | (config.get("metadata") or {})


def _hook_names(config: dict[str, Any]) -> tuple[str, ...] | None:
    found = _metadata_of(config)
    names = found.get("hook_names") or found.get("hook_name")
    return None if not names else (names,) if isinstance(names, str) else tuple(names)


def _k(config: dict[str, Any]) -> int | None:
    found = config.get("k") or _metadata_of(config).get("deepseemoe_k")
    return round(found) if found else None


def _check_inputs(where: Path, config: dict[str, Any]) -> None:
    """Raise ValueError where activations are changed before they are encoded or after."""
    normalised = config.get("normalize_activations") or "none"
    if normalised != "none":
        raise ValueError(
            f"{where}: normalize_activations {normalised!r}, expected 'none'; it changes each "
            "token by its own norm, or by a number that is not in the file; fold it in SAELens "
            "(fold_activation_norm_scaling_factor) and save again"
        )
    if (config.get("reshape_activations") or "none") != "none":
        raise ValueError(
            f"{where}: reshape_activations {config['reshape_activations']!r}, expected 'none'; "
            "only dictionaries of the residual stream can be imported"
        )
    for key in SKIPPED_KEYS:
        if config.get(key):
            raise ValueError(f"{where}: {key} is set, which cannot be imported")


def _gated(architecture: str, found: Found, config: dict[str, Any], tensors: Tensors) -> Found:
    """Return what was found with its gate, and with weights that the gate asks for."""
    where, n_features = Path(found.where), len(found.encoder_FC)
    none_F = torch.zeros(n_features)
    is_rescaled = bool(config.get("rescale_acts_by_decoder_norm", "batchtopk" in architecture))
    match architecture:
        case "jumprelu":
            threshold_F = inclusive(tensors.get("threshold", (n_features,)))
            return found._replace(gate=PerFeature(threshold_F), activation="jumprelu")
        case "topk":
            gate = TopK(value(where, config, "k", int), weighted=False)
            found = found._replace(gate=gate, activation="topk")
            return found.scored() if is_rescaled else found
        case "gated":
            return found.gated(
                tensors.get("r_mag", (n_features,)), tensors.get("b_gate", (n_features,))
            )
        case "batchtopk" | "matryoshka_batchtopk":
            threshold = float(tensors.get("topk_threshold", ()))
            gate = PerFeature(inclusive(torch.full((n_features,), threshold)))
            found = found._replace(gate=gate, activation="batch_topk")
            return found.scored() if is_rescaled else found
    return found._replace(gate=PerFeature(none_F), activation="relu")
