"""Loading the model that a run studies, whatever made it."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    Mxfp4Config,
    PreTrainedConfig,
    PreTrainedModel,
)

from deepseemoe.config import ModelConfig
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.nanomoe.modeling import register_nanomoe
from deepseemoe.model.sink_attention import register_sink_attention
from deepseemoe.model.spec import spec_for

logger = logging.getLogger(__name__)


def load_model(
    config: ModelConfig, folder: Path | None, *, device: str = "cpu", n_layers: int | None = None
) -> MoeModel:
    """Return the model of a run, ready to read.

    `folder` holds the model where the run makes its own; for `source: hub` it is not looked at.
    `n_layers` loads only the first layers, without the head: all that capture needs, and much less
    memory. gpt-oss checkpoints in MXFP4 are expanded to `dtype`, because their fused kernels bypass
    the modules that we listen to. No code from a checkpoint is ever run.

    Raises ValueError for a model of no known Mixture-of-Experts family, one whose layers are all
    dense, or one with fewer layers than asked for; OSError where there is no such model.
    """
    register_nanomoe()
    register_sink_attention()
    where, revision = _where(config, folder)
    _refuse_unknown(where, revision)
    network_config = AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False)
    _truncate(network_config, n_layers, where)
    auto = AutoModelForCausalLM if n_layers is None else AutoModel
    network = auto.from_pretrained(
        where, revision=revision, trust_remote_code=False, **_options(config, network_config)
    )
    _realign(network.to(device))
    model = MoeModel(network)
    if n_layers is None and not model.moe_layers:
        raise ValueError(f"{where}: all {model.n_layers} layers are dense, no experts to read")
    logger.info(
        "loaded %s: %d layers, %d with experts, %d experts, top %d, %.2f billion parameters",
        where, model.n_layers, len(model.moe_layers), model.n_experts, model.top_k,
        network.num_parameters() / 1e9,
    )  # fmt: skip
    return model


def _where(config: ModelConfig, folder: Path | None) -> tuple[str, str | None]:
    """Return the Hub name or folder to load, and the revision."""
    if config.source != "hub":
        if folder is None:
            raise ValueError(f"source `{config.source}` needs the folder of the run's own model")
        return _existing(folder), None
    path = Path(config.name or "").expanduser()
    if path.is_absolute() or path.is_dir() or str(config.name).startswith("."):
        return _existing(path), None
    return str(config.name), config.revision


def _existing(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no model is here (a config.json was expected)")
    return str(folder)


def _refuse_unknown(where: str, revision: str | None) -> None:
    """Raise ValueError for an unknown family, before transformers asks to run its code."""
    raw, _ = PreTrainedConfig.get_config_dict(where, revision=revision)
    try:
        spec_for(raw.get("model_type", ""))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _truncate(network_config: PreTrainedConfig, n_layers: int | None, where: str) -> None:
    """Have the configuration name only the first layers."""
    if n_layers is None:
        return
    if not 0 < n_layers <= network_config.num_hidden_layers:
        raise ValueError(
            f"{where}: has {network_config.num_hidden_layers} layers, {n_layers} were asked for"
        )
    network_config.num_hidden_layers = n_layers
    if getattr(network_config, "layer_types", None):
        network_config.layer_types = network_config.layer_types[:n_layers]


def _realign(network: PreTrainedModel) -> None:
    """Copy weights that the CPU would read from the mapped file, where they lie at odd addresses.

    Matrix products sum in another order there, so the last bits would depend on the file's layout.
    """
    for parameter in network.parameters():
        if parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def _options(config: ModelConfig, network_config: PreTrainedConfig) -> dict[str, Any]:
    """Return how transformers is to build and fill the network."""
    options: dict[str, Any] = {"config": network_config, "dtype": getattr(torch, config.dtype)}
    kernel = spec_for(network_config.model_type).attention_kernel
    if kernel:
        options["attn_implementation"] = kernel
    quantization = getattr(network_config, "quantization_config", None) or {}
    if quantization.get("quant_method") == "mxfp4":
        options["quantization_config"] = Mxfp4Config(dequantize=True)
    return options
