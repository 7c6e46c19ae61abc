"""Where a model lies, and what its config.json alone says, before any weight is read.

A multimodal checkpoint (Llama 4) holds a text model of its own configuration, whose weights stand
under `language_model.`; that text model is the one we read.
"""

import copy
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from deepseemoe.config import ModelConfig
from deepseemoe.model.deepseek.modeling import register_deepseek
from deepseemoe.model.nanomoe.modeling import register_nanomoe
from deepseemoe.model.sink_attention import register_sink_attention
from deepseemoe.model.spec import SPECS, spec_for
from deepseemoe.runtime.hub import hub_errors

_INDEX_LISTS = ("moe_layers", "mlp_only_layers")
"""Lists of layer indices; every other list of a configuration with `layer` in its name has an entry
for each layer."""


class Checkpoint(NamedTuple):
    """A folder or Hub name with a model of `n_layers`, and what is to be read of it."""

    where: str
    revision: str | None
    n_layers: int
    network_config: PreTrainedConfig
    is_multimodal: bool = False

    @property
    def is_mxfp4(self) -> bool:
        """Whether the experts are stored in 4 bits, as those of gpt-oss."""
        quantization = getattr(self.network_config, "quantization_config", None) or {}
        return quantization.get("quant_method") == "mxfp4"

    def first(self, n_layers: int) -> "Checkpoint":
        """Return the checkpoint with its first `n_layers` to be read, or all where it has fewer."""
        return self._replace(network_config=_first_layers(self.network_config, n_layers))


def open_checkpoint(config: ModelConfig, folder: Path | None) -> Checkpoint:
    """Return the model of a run; `folder` holds it where the run makes its own or draws it.

    Raises ValueError for a model of no known Mixture-of-Experts family, and for a configuration
    that is none; OSError where there is no such model, or the Hub does not give it.
    """
    register_nanomoe()
    register_deepseek()
    register_sink_attention()
    where, revision = _where(config, folder)
    with hub_errors(where, revision):
        raw, _ = PreTrainedConfig.get_config_dict(where, revision=revision)
    if not isinstance(raw, dict):
        raise ValueError(f"{where}: config.json holds no keys and values; fetch it again")
    _refuse_unknown(raw, where)
    try:
        whole = AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False)
    except (StrictDataclassError, LookupError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise ValueError(f"{where}: config.json holds what is no model's ({told})") from error
    text = whole.get_text_config()
    return Checkpoint(where, revision, text.num_hidden_layers, text, text is not whole)


def _where(config: ModelConfig, folder: Path | None) -> tuple[str, str | None]:
    """Return the Hub name or folder to load, and the revision."""
    if config.source != "hub" or config.random_weights:
        if folder is None:
            what = "random_weights" if config.random_weights else f"source `{config.source}`"
            raise ValueError(f"{what} needs the folder of the run's own model")
        return _existing(folder), None
    path = Path(config.name or "").expanduser()
    if path.is_absolute() or path.is_dir() or str(config.name).startswith("."):
        return _existing(path), None
    return str(config.name), config.revision


def _existing(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json; name a model folder or a Hub name")
    return str(folder)


def _refuse_unknown(raw: dict[str, Any], where: str) -> None:
    """Raise ValueError for an unknown family, before transformers asks to run its code.

    And for weights in fewer bits than ours, whose kernels nobody has listened to.
    """
    text_type = (raw.get("text_config") or {}).get("model_type")
    try:
        spec_for(text_type if text_type in SPECS else raw.get("model_type", ""))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    method = (raw.get("quantization_config") or {}).get("quant_method")
    if method not in (None, "mxfp4"):
        raise ValueError(
            f"{where}: its weights are quantised ({method}), and of these only mxfp4 is read; name "
            "a checkpoint in bfloat16"
        )


def _first_layers(network_config: PreTrainedConfig, n_layers: int) -> PreTrainedConfig:
    """Return a configuration that names the first layers alone, in every list that it keeps."""
    if n_layers < 1:
        raise ValueError(f"n_layers is {n_layers}, and a model is loaded with one layer at least")
    first, n_whole = copy.deepcopy(network_config), network_config.num_hidden_layers
    first.num_hidden_layers = min(n_layers, n_whole)
    for name, value in list(vars(first).items()):
        if "layer" not in name or not isinstance(value, (list, tuple)):
            continue
        if name in _INDEX_LISTS:
            setattr(first, name, type(value)(n for n in value if n < n_layers))
        elif len(value) >= n_whole:
            setattr(first, name, value[:n_layers])
    return first
