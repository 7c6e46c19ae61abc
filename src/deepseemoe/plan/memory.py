"""What a device holds: its parts, and those that every rule with a model shares.

Weights, moments, buffers and logits are counted. What a forward pass or a training step takes
besides is estimated from its largest tensors; kernels may take less.

Axes: S sequences, N sequence length, T = S * N tokens, D d_model, K top_k.
"""

from collections.abc import Sequence
from typing import NamedTuple

from deepseemoe.activations.pool import N_CHUNKS
from deepseemoe.config import ModelConfig, RunConfig
from deepseemoe.model.placement import spread
from deepseemoe.plan.dictionaries import FLOAT, Shape
from deepseemoe.plan.figures import Figure, shown_bytes
from deepseemoe.plan.network import Layer, Network
from deepseemoe.plan.stores import arrays_of, row_bytes

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}

PACKED_BYTES = 17 / 32
"""A weight in MXFP4: 4 bits, and an 8-bit scale for each 32."""


class Share(NamedTuple):
    """A part of what a device holds."""

    what: str
    n_bytes: float
    is_estimate: bool = False


class Use(NamedTuple):
    """What one device holds, at most, while a rule runs; `stage` is its key in `devices`."""

    rule: str
    stage: str
    device: str
    shares: tuple[Share, ...]

    @property
    def n_bytes(self) -> float:
        """All of it."""
        return sum(share.n_bytes for share in self.shares)

    def figure(self) -> Figure:
        """Return the sum and its parts."""
        parts = [f"{'~' * s.is_estimate}{shown_bytes(s.n_bytes)} {s.what}" for s in self.shares]
        is_estimate = any(share.is_estimate for share in self.shares)
        name = f"{self.rule}, {self.device}"
        return Figure(name, self.n_bytes, "bytes", " + ".join(parts), is_estimate)


def names_of(run: RunConfig, stage: str) -> list[str]:
    """Return how the devices of a stage are called."""
    n_gpus = run.devices.n_gpus(stage)
    if n_gpus > 1:
        return [f"GPU {number + 1} of {n_gpus}" for number in range(n_gpus)]
    return ["GPU"] if n_gpus else ["RAM"]


def model_bytes(config: ModelConfig, network: Network, n_devices: int = 1) -> list[int]:
    """Return the bytes of a model's weights on each of the devices that share it."""
    width = DTYPE_BYTES[config.dtype]
    layers = (_layer_bytes(layer, width, config.kernels) for layer in network.layers)
    sizes = [width * network.n_embedding, *layers, width * (network.n_rest + network.n_head)]
    sums = [0] * n_devices
    for size, device in zip(sizes, spread(sizes, n_devices), strict=True):
        sums[device] += size
    return sums


def _layer_bytes(layer: Layer, width: int, kernels: str) -> int:
    routed = PACKED_BYTES if kernels == "native" else width
    return int((layer.n_parameters - layer.n_routed) * width + layer.n_routed * routed)


def model_uses(
    run: RunConfig, network: Network, rule: str, stage: str, others: Sequence[Share]
) -> list[Use]:
    """Return what each device of a stage holds of a model, and `others` on each."""
    names = names_of(run, stage)
    sizes = model_bytes(run.model, network, len(names))
    return [
        Use(rule, stage, name, (Share("model", size), *others))
        for name, size in zip(names, sizes, strict=True)
    ]


def forward_shares(run: RunConfig, network: Network) -> tuple[Share, ...]:
    """Return what a forward pass of capture takes besides the model."""
    length = run.corpus.sequence_length
    n_tokens = run.activations.batch_sequences * length
    width = DTYPE_BYTES[run.model.dtype]
    recorded = n_tokens * row_bytes(arrays_of(run, network)) * width / 2
    return (
        Share("recorded", recorded, True),
        Share("forward pass", forward_bytes(network, n_tokens, length, width), True),
    )


def forward_bytes(network: Network, n_tokens: int, length: int, width: int) -> float:
    """Return the largest tensors of a forward pass, beside each other.

    Attention at worst holds scores (S, heads, N, N) three times in float32, which PyTorch does
    where no fused kernel takes the mask; experts hold K rows a token, on the way in and out.
    """
    scores = 3 * FLOAT * n_tokens * length * network.n_heads
    rows = 3 * n_tokens * network.top_k * (network.d_model + network.d_expert) * width
    return max(scores, rows) + 4 * n_tokens * network.d_model * width


def pool_bytes(run: RunConfig, shapes: Sequence[Shape]) -> int:
    """Return the bytes of the live pool: whole sequences in three chunks, bfloat16."""
    length = run.corpus.sequence_length
    n_rows = run.batches.buffer_tokens // N_CHUNKS // length * length * N_CHUNKS
    sites = {site for shape in shapes for site in shape.sites}
    return n_rows * len(sites) * shapes[0].d_model * 2
