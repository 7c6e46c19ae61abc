"""gpt-oss with its weights in 4 bits, on the kernels that it came with.

Their fused block calls neither router nor experts as modules, so nothing could be listened to.
It has a slower way for experts that are spread over processes, which calls both; `_is_hooked` on
the experts chooses it. This is a private name of transformers 5.23: the self-test that follows
each load fails where another version drops it.
"""

import importlib.util
from collections.abc import Sequence

from torch import nn

from deepseemoe.model.checkpoint import Checkpoint

_PACKAGES = ("triton", "kernels")
_BLOCK = "Mxfp4GptOssMLP"


def check_native(checkpoint: Checkpoint, devices: Sequence[str], *, dtype: str) -> None:
    """Raise ValueError where `kernels: native` cannot be had, before any weight is read."""
    lacking = [] if checkpoint.is_mxfp4 else ["a gpt-oss checkpoint in MXFP4"]
    lacking += [] if all(device.startswith("cuda") for device in devices) else ["a GPU"]
    lacking += [] if dtype == "bfloat16" else ["model.dtype bfloat16"]
    lacking += [
        f"the package {name}" for name in _PACKAGES if importlib.util.find_spec(name) is None
    ]
    if lacking:
        raise ValueError(
            f"{checkpoint.where}: model.kernels native needs {', '.join(lacking)}; write plain"
        )


def listen_to_experts(layers: nn.ModuleList, *, where: str) -> None:
    """Have 4-bit blocks call their router and experts, so that hooks fire.

    Raises ValueError where a layer is no such block: transformers expands the weights, with a
    warning at most, where it cannot load the kernels.
    """
    expanded = [number for number, layer in enumerate(layers) if type(layer.mlp).__name__ != _BLOCK]
    if expanded:
        raise ValueError(
            f"{where}: model.kernels native, but {len(expanded)} of {len(layers)} layers hold "
            "expanded weights: transformers could not use its MXFP4 kernels here (their log says "
            "why); write model.kernels: plain"
        )
    for layer in layers:
        layer.mlp.experts._is_hooked = True
