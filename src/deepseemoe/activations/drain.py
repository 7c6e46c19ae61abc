"""The way of a full window to the host, beside the model that computes the next one.

On a GPU, all of it happens in a side stream, and each thread that drains has 32 MiB of pinned host
memory, so a window crosses in pieces and needs no second copy. Who drains waits for the GPU asleep
and without the interpreter's lock.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepseemoe.activations.tensors import as_words
from deepseemoe.activations.window import WindowBuffer

GPU_PIECE_BYTES = 2**25
"""Pinned memory of a thread: long enough copies, and a power of 2, which torch rounds up to."""

CPU_PIECE_BYTES = 2**22
"""Stays in the processor's cache between permutation, checksum and file."""


class Drain:
    """Reads windows, from any number of threads."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._thread = threading.local()

    @contextmanager
    def reading(self, window: WindowBuffer, name: str) -> Iterator[Tensor]:
        """Yield an array of a full window, in text order; what is computed of it runs aside."""
        values = window[name]
        if not values.is_cuda:
            yield values
            return
        stream = self._side(values.device)
        window.wait(stream)
        values.record_stream(stream)
        with torch.cuda.stream(stream):
            yield values

    def pieces(
        self, window: WindowBuffer, name: str, *, chunk_rows: int
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the bytes of an array in stored order, (n, bytes), in pieces of whole chunks.

        A piece holds until the next is asked for, or this thread drains something else.
        """
        words = as_words(window[name])
        n_bytes = words.shape[1] * words.element_size()
        most = GPU_PIECE_BYTES if words.is_cuda else CPU_PIECE_BYTES
        n_rows = max(most // (chunk_rows * n_bytes), 1) * chunk_rows
        for places in window.places.split(n_rows):
            with self.reading(window, name) as values:
                piece = self._on_host(as_words(values), places)
            yield piece.view(torch.uint8).numpy()

    def _on_host(self, words: Tensor, places: Tensor) -> Tensor:
        """Return the rows at `places` in memory of this thread, once they are there."""
        n_bytes = len(places) * words.shape[1] * words.element_size()
        host = self._memory(n_bytes, pinned=words.is_cuda)
        host = host.view(words.dtype).view(len(places), -1)
        if not words.is_cuda:
            return torch.index_select(words, 0, places, out=host)
        host.copy_(words.index_select(0, places.to(words.device)), non_blocking=True)
        done = torch.cuda.Event(blocking=True)
        done.record()
        done.synchronize()
        return host

    def _memory(self, n_bytes: int, *, pinned: bool) -> Tensor:
        """Return so many bytes of host memory, the same for all calls of a thread."""
        held = self._thread.__dict__
        if pinned not in held or len(held[pinned]) < n_bytes:
            least = GPU_PIECE_BYTES if pinned else CPU_PIECE_BYTES
            held[pinned] = torch.empty(max(n_bytes, least), dtype=torch.uint8, pin_memory=pinned)
        return held[pinned][:n_bytes]

    def _side(self, gpu: torch.device) -> torch.cuda.Stream:
        if gpu not in self._streams:
            self._streams[gpu] = torch.cuda.Stream(gpu)
        return self._streams[gpu]
