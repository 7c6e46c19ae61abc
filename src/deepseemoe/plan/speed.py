"""How fast devices are taken to be, and how long a token takes on them.

A forward pass is two FLOPs a parameter that a token meets, plus attention, at a share of the peak.
A training step of a dictionary is its encoder product, in float32, plus the bytes that sparse sums
and Adam move: the two parts that are left once everything else touches active features only.
"""

from typing import NamedTuple

from deepseemoe.plan.dictionaries import FLOAT, Shape
from deepseemoe.plan.network import Network

STEP_PASSES = 44
"""Bytes moved a parameter in a step: its gradient written, normed and scaled, and Adam."""


class Hardware(NamedTuple):
    """What a device does at its peak, and the shares of it that we take to reach."""

    name: str
    model_tflops: float
    float32_tflops: float
    gb_per_second: float
    utilisation: float = 0.25
    product_utilisation: float = 0.7


GPU = Hardware("H100 SXM", model_tflops=989, float32_tflops=67, gb_per_second=3350)
"""Data sheet: bfloat16 without sparsity, float32 without tensor cores, HBM3."""

CORE = Hardware("one CPU core", model_tflops=0.1, float32_tflops=0.1, gb_per_second=10)
"""AVX2 at 3 GHz: 96 GFLOP/s."""

DISK_GB_PER_SECOND = 1.0
"""A store's writer and a disk keep up with about this."""


def forward_flops(network: Network, length: int) -> float:
    """Return the FLOPs of one token; an embedding is looked up, so a tied head is left out."""
    multiplied = network.n_active - network.n_embedding
    attention = 2 * length * network.n_heads * network.d_head * network.n_layers
    return 2 * multiplied + attention


def forward_speed(network: Network, length: int, hardware: Hardware) -> float:
    """Return the tokens a second of a forward pass."""
    rate = hardware.model_tflops * 1e12 * hardware.utilisation
    return rate / forward_flops(network, length)


def step_seconds(shape: Shape, hardware: Hardware) -> float:
    """Return the seconds of one training step of a dictionary."""
    n_tokens = shape.config.batch_tokens
    product = 2 * n_tokens * shape.n_encoder
    n_rows = n_tokens * shape.config.k
    columns = (shape.n_encoder + 3 * shape.n_decoder) / shape.config.d_dict
    moved = n_rows * columns * FLOAT + STEP_PASSES * shape.n_parameters
    rate = hardware.float32_tflops * 1e12 * hardware.product_utilisation
    return product / rate + moved / (hardware.gb_per_second * 1e9 * 0.8)


def training_speed(shape: Shape, hardware: Hardware) -> float:
    """Return the tokens a second of a dictionary's training."""
    return shape.config.batch_tokens / step_seconds(shape, hardware)


def encoding_speed(shape: Shape, hardware: Hardware) -> float:
    """Return the tokens a second that a trained dictionary encodes."""
    rate = hardware.float32_tflops * 1e12 * hardware.product_utilisation
    return rate / (2 * shape.n_encoder)
