"""config.json of dictionary_learning: which class it is, of what sizes, and what it reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepseemoe.interop.peer_files import read_object

CONFIG = "config.json"

CLASSES = (
    "AutoEncoder",
    "AutoEncoderNew",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
    "JumpReluAutoEncoder",
    "GatedAutoEncoder",
)
SWEPT = {
    "batch_top_k": "BatchTopKSAE",
    "matryoshka_batch_top_k": "MatryoshkaBatchTopKSAE",
    "top_k": "AutoEncoderTopK",
    "jump_relu": "JumpReluAutoEncoder",
    "standard": "AutoEncoder",
    "standard_new": "AutoEncoderNew",
    "gated": "GatedAutoEncoder",
}
"""Classes by the names of architectures in the configuration of a training sweep."""


def hook_names(folder: Path) -> tuple[str, ...] | None:
    """Return what `config.json` says that the dictionary reads, None where it does not say."""
    trainer = trainer_of(folder)
    if names := trainer.get("submodule_names"):  # ours, of several layers
        return tuple(map(str, names))
    if name := trainer.get("submodule_name"):
        return (str(name),)
    layer = trainer.get("layer")
    return None if layer is None else (f"resid_post_layer_{layer}",)


def trainer_of(folder: Path) -> dict[str, Any]:
    """Return what `config.json` says of the training, in the words of its trainers."""
    where = folder / CONFIG
    config = read_object(where, "dictionary_learning")
    trainer = config.get("trainer", _of_sweep(where, config))
    if not isinstance(trainer, dict) or "dict_class" not in trainer:
        raise ValueError(
            f"{where}: no key 'trainer.dict_class'; found {', '.join(config)}; expected what "
            "dictionary_learning's trainers write, or a sweep's architectures and layers"
        )
    if trainer["dict_class"] not in CLASSES:
        raise ValueError(
            f"{where}: trainer.dict_class {trainer['dict_class']!r}; can be imported: "
            f"{', '.join(CLASSES)}"
        )
    return trainer


def _of_sweep(where: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a trainer's description from the configuration of a sweep over one architecture."""
    names, layers = config.get("architectures"), config.get("layers")
    if not names or not layers:
        return None
    if len(names) > 1 or names[0] not in SWEPT or len(layers) > 1:
        raise ValueError(
            f"{where}: architectures {names} on layers {layers}; expected one layer and one of "
            f"{', '.join(SWEPT)}: which of them is this ae.pt?"
        )
    return {"dict_class": SWEPT[names[0]], "layer": layers[0], "lm_name": config.get("model_name")}
