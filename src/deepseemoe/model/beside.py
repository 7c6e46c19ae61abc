"""Small work on a GPU that the host waits for, beside the large work that it must not wait for.

Building a mask, transformers looks whether sequences are packed, and copying tokens to a GPU waits
too: in the model's own stream, either would wait for the batch before. Then the GPU idles while the
host asks for the next kernels, the longer, the busier its other threads are: capture of 9 sites on
an H100 went from 0.82 to 0.93 of the bare forward pass.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

HandOver = Callable[[Any], None]
"""Says of which tensors (a mapping, however nested) the stream outside goes on."""


@contextmanager
def beside(device: torch.device) -> Iterator[HandOver]:
    """Compute what is in the block in a stream of its own; on CPUs, just compute it."""
    if device.type != "cuda":
        yield lambda values: None
        return
    outside, aside = torch.cuda.current_stream(device), _stream(device)
    with torch.cuda.stream(aside):
        yield lambda values: _hand_over(values, outside)
    outside.wait_stream(aside)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _hand_over(values: Any, stream: torch.cuda.Stream) -> None:
    """Keep the memory of tensors until `stream` is done with it."""
    if isinstance(values, Mapping):
        for value in values.values():
            _hand_over(value, stream)
    elif isinstance(values, Tensor):
        values.record_stream(stream)
