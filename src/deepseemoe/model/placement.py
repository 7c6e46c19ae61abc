"""Where each part of a model goes, when several devices share it, and whether it fits there.

Layers stay whole, and a device gets a run of neighbours: one hand-over of the residual stream
between two devices. Sizes are those of the weights; activations come on top.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel

from deepseemoe.runtime.memory import GIB, free_bytes

_PACKED = 17 / 32
"""Bytes of a weight in MXFP4: 4 bits, and an 8-bit scale for each 32."""


class Part(NamedTuple):
    """Modules that stay together, by name, and the bytes of their weights."""

    modules: tuple[str, ...]
    n_bytes: int


def parts_of(network: PreTrainedModel, *, is_packed: bool = False) -> list[Part]:
    """Return the parts of a model in the order they compute: embedding, each layer, norm and head.

    A head that shares its weights with the embedding stands with it. `is_packed` says that experts
    keep their 4-bit weights; the model may be on the meta device.
    """
    base = getattr(network, "model", network)
    prefix = "" if base is network else "model."
    first, last = [], []
    for name, _ in base.named_children():
        if name != "layers":
            (last if name == "norm" else first).append(prefix + name)
    is_tied = network.config.tie_word_embeddings
    for name, module in network.named_children():
        if module is not base and base is not network:
            (first if is_tied else last).append(name)
    layers = ([f"{prefix}layers.{number}"] for number in range(len(base.layers)))
    return [
        Part(tuple(names), _n_bytes(network, names, is_packed)) for names in (first, *layers, last)
    ]


def spread(n_bytes: Sequence[int], n_devices: int) -> tuple[int, ...]:
    """Return the device (from 0) of each part: runs of neighbours, the fullest device least full.

    Where parts are fewer than devices, the last devices stay empty.
    """
    sums = {sum(n_bytes[i:j]) for i in range(len(n_bytes)) for j in range(i, len(n_bytes) + 1)}
    fitting = (_fill(n_bytes, capacity) for capacity in sorted(sums))
    return next(filled for filled in fitting if filled and filled[-1] < n_devices)


def device_map(parts: Sequence[Part], devices: Sequence[str]) -> dict[str, str]:
    """Return the device of each module, as transformers wants it."""
    chosen = spread([part.n_bytes for part in parts], len(devices))
    return {
        module: devices[device]
        for part, device in zip(parts, chosen, strict=True)
        for module in part.modules
    }


def check_memory(parts: Sequence[Part], devices: Sequence[str], *, where: str, advice: str) -> None:
    """Raise ValueError where weights are more than what is free on a device; `advice` ends it."""
    needed: Counter[str] = Counter()
    chosen = spread([part.n_bytes for part in parts], len(devices))
    for part, device in zip(parts, chosen, strict=True):
        needed[devices[device]] += part.n_bytes
    lacking = [
        f"{size / GIB:.1f} GiB on {device}, where {free / GIB:.1f} GiB are free"
        for device, size in needed.items()
        if size > (free := free_bytes(device))
    ]
    if lacking:
        raise ValueError(f"{where}: its weights need {', and '.join(lacking)}; {advice}")


def _fill(n_bytes: Sequence[int], capacity: int) -> tuple[int, ...] | None:
    """Return the device of each part, where each takes all that fits; None where one does not."""
    filled, device, used = [], 0, 0
    for size in n_bytes:
        if used + size > capacity:
            device, used = device + 1, 0
        if size > capacity:
            return None
        used += size
        filled.append(device)
    return tuple(filled)


def _n_bytes(network: nn.Module, modules: Sequence[str], is_packed: bool) -> int:
    """Return the bytes of the tensors of some modules, each tensor once."""
    sizes: dict[int, int] = {}
    for module in map(network.get_submodule, modules):
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            is_weight = ".experts." in name and tensor.dim() == 3
            size = _PACKED if is_packed and is_weight else tensor.element_size()
            sizes[id(tensor)] = int(tensor.numel() * size)
    return sum(sizes.values())
