"""Loading the model that a run studies, whatever made it, on the devices that it is given.

All that can be known to be wrong is looked for before weights are read, which may take minutes.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Mxfp4Config, PreTrainedModel

from deepseemoe.config import ModelConfig
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.checkpoint import Checkpoint, open_checkpoint
from deepseemoe.model.native import check_native, listen_to_experts
from deepseemoe.model.outline import check_experts, outline
from deepseemoe.model.placement import check_memory, device_map, parts_of
from deepseemoe.model.self_test import self_test
from deepseemoe.model.weights import read_network
from deepseemoe.names import Site
from deepseemoe.runtime.devices import check_devices

logger = logging.getLogger(__name__)


def load_model(
    config: ModelConfig,
    folder: Path | None,
    *,
    devices: Sequence[str] = ("cpu",),
    n_layers: int | None = None,
    head: bool = True,
    sites: Iterable[str | Site] = (),
) -> MoeModel:
    """Return the model of a run, ready to read.

    `folder` holds the model where the run makes its own; for `source: hub` it is not looked at.
    Layers are spread over several `devices`, in order. `n_layers` loads at most so many of the
    first layers and no head: all that capture needs, and much less memory; `head=False` loads all
    layers without it. gpt-oss checkpoints in MXFP4 are expanded to `dtype`, unless `kernels` is
    `native`. A model of others is put to the self-test. No code from a checkpoint is ever run.

    Raises ValueError for a model of no known Mixture-of-Experts family, and for one whose layers
    are all dense, that lacks `sites`, is too large for its devices, whose weights do not fit it, or
    that fails the self-test; OSError where there is no such model.
    """
    check_devices(devices)
    checkpoint = open_checkpoint(config, folder)
    check_experts(checkpoint)
    if config.kernels == "native":
        check_native(checkpoint, devices, dtype=config.dtype)
    if n_layers is not None:
        checkpoint, head = checkpoint.first(n_layers), False
    options = _options(config, checkpoint, devices, head=head, sites=sites)
    network = read_network(checkpoint, head=head, **options)
    _realign(network)
    model = MoeModel(network, expert_domains=config.expert_domains or None)
    _test(model, config, checkpoint.where)
    logger.info(
        "loaded %s: %d of %d layers, %d with experts, %d experts, top %d, %.2f billion parameters",
        checkpoint.where, model.n_layers, checkpoint.n_layers, len(model.moe_layers),
        model.n_experts, model.top_k, network.num_parameters() / 1e9,
    )  # fmt: skip
    return model


def _options(
    config: ModelConfig,
    checkpoint: Checkpoint,
    devices: Sequence[str],
    *,
    head: bool,
    sites: Iterable[str | Site],
) -> dict[str, Any]:
    """Return how transformers is to build, fill and place the network; check that it can."""
    planned = outline(checkpoint, head=head, dtype=config.dtype)
    planned.check(sites)
    parts = parts_of(planned.network, is_packed=config.kernels == "native")
    advice = _advice(config, checkpoint, devices)
    check_memory(parts, devices, where=checkpoint.where, advice=advice)
    options: dict[str, Any] = {
        "config": checkpoint.network_config,
        "dtype": getattr(torch, config.dtype),
    }
    if set(devices) != {"cpu"}:
        options["device_map"] = device_map(parts, devices)
    if planned.spec.attention_kernel:
        options["attn_implementation"] = planned.spec.attention_kernel
    if checkpoint.is_mxfp4 and config.kernels == "plain":
        options["quantization_config"] = Mxfp4Config(dequantize=True)
    return options


def _advice(config: ModelConfig, checkpoint: Checkpoint, devices: Sequence[str]) -> str:
    """Return what makes a model smaller, or gives it more room."""
    is_on_gpu = devices[0] != "cpu"
    options = ["read lower layers (windows, with activations.routing: needed)"]
    if is_on_gpu:
        options.insert(0, f"spread it over more GPUs (as devices.activations: {len(devices) + 1})")
    if config.dtype == "float32":
        options.append("halve it with model.dtype: bfloat16")
    if is_on_gpu and checkpoint.is_mxfp4 and config.kernels == "plain":
        options.append("keep its 4 bits with model.kernels: native")
    return ", or ".join(options)


def _realign(network: PreTrainedModel) -> None:
    """Copy weights that the CPU would read from the mapped file, where they lie at odd addresses.

    Matrix products sum in another order there, so the last bits would depend on the file's layout.
    """
    for parameter in network.parameters():
        if parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def _test(model: MoeModel, config: ModelConfig, where: str) -> None:
    """Have native kernels be heard, and put a model that we did not make to the self-test."""
    if config.kernels == "native":
        listen_to_experts(model.layers, where=where)
    if config.source != "hub":
        return
    try:
        self_test(model)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
