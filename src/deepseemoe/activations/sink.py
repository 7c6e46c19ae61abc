"""What the writer's threads do with a full window: measure it, write its arrays."""

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepseemoe.activations.drain import Drain
from deepseemoe.activations.layout import ArraySpec, create_array, create_group
from deepseemoe.activations.measuring import Measurements
from deepseemoe.activations.shard_format import shard_path, write_pieces, write_shard
from deepseemoe.activations.window import WindowBuffer


class WindowSink:
    """Writes windows into the store that grows at `folder`; errors name `store`, its final path."""

    def __init__(
        self,
        folder: Path,
        arrays: Sequence[ArraySpec],
        *,
        store: Path,
        n_tokens: int,
        window_tokens: int,
        chunk_tokens: int,
        norm_outlier: float,
        manifest: Mapping[str, Any],
    ):
        """Write the metadata of the group."""
        self.store = store
        self._folder, self._arrays = folder, {spec.name: spec for spec in arrays}
        self._sizes = {"shard_rows": window_tokens, "chunk_rows": chunk_tokens}
        self._n_tokens = n_tokens
        self._drain = Drain()
        self._measurements = Measurements(
            arrays, self._drain, store=store, norm_outlier=norm_outlier
        )
        self._empty_shards: dict[str, list[int]] = {spec.name: [] for spec in arrays}
        create_group(folder, manifest)

    def tasks(self, window: WindowBuffer) -> list[Callable[[], None]]:
        """Return what is to be done with a full window, in any order or all at once.

        Small arrays are one task: they cost little but the interpreter, and several threads that
        ask for it at once keep it from the model (6 ms at a time). Tasks raise ValueError where a
        value is not finite, and OSError where the disk is full.
        """
        sites = self._measurements.widths
        small = [name for name in self._arrays if name not in sites and name != "is_valid"]
        writes = [partial(self._write, window, [name]) for name in sites]
        return [partial(self._measure, window), partial(self._write, window, small), *writes]

    def finish(self) -> None:
        """Write the statistics, and the metadata of all arrays with what was found of them."""
        for name, spec in self._arrays.items():
            attributes: dict[str, Any] = {}
            if name in self._measurements.widths:
                attributes = self._measurements.attributes(name)
                self._write_moments(name)
            attributes["empty_shards"] = sorted(self._empty_shards[name])
            create_array(
                self._folder, spec, n_rows=self._n_tokens, attributes=attributes, **self._sizes
            )

    def _measure(self, window: WindowBuffer) -> None:
        """Check and measure a window, and write `is_valid`."""
        is_valid_T = self._measurements.measure(window)
        window.fill("is_valid", torch.from_numpy(is_valid_T))
        self._write(window, ["is_valid"])

    def _write(self, window: WindowBuffer, names: Sequence[str]) -> None:
        """Write some arrays of a window."""
        n_bytes = window.n_rows * sum(spec.row_bytes for spec in self._arrays.values())
        with full_disk_explained(self.store, n_bytes):
            for name in names:
                n_dims = 1 + len(self._arrays[name].row_shape)
                path = shard_path(self._folder / name, window.index, n_dims)
                pieces = self._drain.pieces(window, name, chunk_rows=self._sizes["chunk_rows"])
                if not write_pieces(path, pieces, **self._sizes):
                    self._empty_shards[name].append(window.index)

    def _write_moments(self, site: str) -> None:
        """Write mean and variance of a site."""
        moments = self._measurements.moments(site)
        rows = np.stack([moments.mean_D, moments.variance_D]).astype(np.float32)
        spec = ArraySpec(f"statistics/{site}", "float32", rows.shape[1])
        sizes = {"shard_rows": 2, "chunk_rows": 2}
        is_there = write_shard(self._folder / spec.name, 0, rows, **sizes)
        empty = {"empty_shards": [] if is_there else [0]}
        create_array(self._folder, spec, n_rows=2, attributes=empty, **sizes)


def check_space(store: Path, n_bytes: int) -> None:
    """Raise OSError where `n_bytes` do not fit on the disk of `store`."""
    free = shutil.disk_usage(store.parent).free
    if free < n_bytes:
        raise OSError(errno.ENOSPC, _full(store, n_bytes, free))


@contextmanager
def full_disk_explained(store: Path, n_bytes: int) -> Iterator[None]:
    """Turn the error of a full disk or quota into a line that says what is needed and free."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(store.parent).free
        raise OSError(error.errno, _full(store, n_bytes, free)) from error


def _full(store: Path, n_bytes: int, free: int) -> str:
    return (
        f"{store}: disk full, {n_bytes:,} more bytes are needed and {free:,} are free; free some, "
        f"or let pathvars put the results on another disk"
    )
