"""Streams of their own for a model that computes while a trainer on the same GPUs goes on.

On a GPU's common stream, a copy to the trainer's device would wait behind the model's forward pass,
and the trainer behind the copy. On CPUs there is nothing to do.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch


class SideStreams:
    """A side stream on each GPU that the model or the ring is on, and two events between them."""

    def __init__(self, model_devices: Iterable[torch.device], ring_device: torch.device):
        gpus = {device for device in (*model_devices, ring_device) if device.type == "cuda"}
        self._streams = {device: torch.cuda.Stream(device) for device in gpus}
        self._ring = self._streams.get(ring_device)
        self._read: torch.cuda.Event | None = None
        self._filled: torch.cuda.Event | None = None

    def mark_read(self) -> None:
        """Note on the trainer's stream that all it has asked of the ring is done by here."""
        if self._ring:
            self._read = torch.cuda.current_stream(self._ring.device).record_event()

    def wait_filled(self) -> None:
        """Have the trainer's stream wait until what was last filled is there."""
        if self._ring and self._filled:
            torch.cuda.current_stream(self._ring.device).wait_event(self._filled)

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Compute on the side streams, once the rows that are overwritten have been read."""
        if self._ring and self._read:
            self._ring.wait_event(self._read)
        with ExitStack() as stack:
            for stream in self._streams.values():
                stack.enter_context(torch.cuda.stream(stream))
            yield
            if self._ring:
                self._filled = self._ring.record_event()
