"""What the writer's second thread does with a full window: check it, measure it, write it."""

import errno
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseemoe.activations.layout import (
    BFLOAT16,
    ArraySpec,
    create_array,
    create_group,
    set_attributes,
)
from deepseemoe.activations.shard_format import write_shard
from deepseemoe.activations.statistics import (
    Moments,
    add_rows,
    norm_quantiles,
    row_norms,
    valid_rows,
)
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
        """Write the metadata of the group and of all arrays."""
        self.store = store
        self._folder, self._arrays = folder, arrays
        self._window_tokens, self._chunk_tokens = window_tokens, chunk_tokens
        self._norm_outlier = norm_outlier
        sites = [spec for spec in arrays if spec.view_dtype == BFLOAT16]
        self._moments = {spec.name: Moments(spec.width or 1) for spec in sites}
        self._norms: dict[str, list[NDArray[np.float64]]] = {spec.name: [] for spec in sites}
        self._empty_shards: dict[str, list[int]] = {spec.name: [] for spec in arrays}
        create_group(folder, manifest)
        for spec in arrays:
            create_array(
                folder, spec, n_rows=n_tokens, shard_rows=window_tokens, chunk_rows=chunk_tokens
            )

    def write(self, window: WindowBuffer) -> None:
        """Check, measure and write a full window.

        Raises ValueError where a value is not finite, and OSError where the disk is full.
        """
        norms = {site: row_norms(window[site]) for site in self._moments}
        self._check_finite(window, norms)
        residuals = {site: norms[site] for site in norms if site.startswith("resid_")}
        is_valid_T = valid_rows(window["position"], residuals, self._norm_outlier)
        window["is_valid"][:] = is_valid_T
        for site, moments in self._moments.items():
            add_rows(moments, window[site], is_valid_T)
            self._norms[site].append(norms[site][is_valid_T])
        self._write_shards(window)

    def finish(self) -> None:
        """Write what was measured over all windows."""
        for site, moments in self._moments.items():
            norms = np.concatenate(self._norms[site]) if self._norms[site] else np.empty(0)
            attributes = {"n_valid": moments.n_rows, "norm_quantiles": norm_quantiles(norms)}
            set_attributes(self._folder, site, attributes)
            spec = ArraySpec(f"statistics/{site}", "float32", len(moments.mean_D))
            create_array(self._folder, spec, n_rows=2, shard_rows=2, chunk_rows=2)
            rows = np.stack([moments.mean_D, moments.variance_D]).astype(np.float32)
            is_there = write_shard(self._folder / spec.name, 0, rows, shard_rows=2, chunk_rows=2)
            self._empty_shards[spec.name] = [] if is_there else [0]
        for name, shards in self._empty_shards.items():
            set_attributes(self._folder, name, {"empty_shards": shards})

    def _write_shards(self, window: WindowBuffer) -> None:
        sizes = {"shard_rows": self._window_tokens, "chunk_rows": self._chunk_tokens}
        with full_disk_explained(
            self.store, window.n_rows * sum(s.row_bytes for s in self._arrays)
        ):
            for spec in self._arrays:
                rows = window[spec.name]
                if not write_shard(self._folder / spec.name, window.index, rows, **sizes):
                    self._empty_shards[spec.name].append(window.index)

    def _check_finite(self, window: WindowBuffer, norms: Mapping[str, NDArray[np.float64]]) -> None:
        """Raise ValueError at the first token, in text order, with a value that is not finite."""
        for spec in self._arrays:
            if spec.name in norms:
                is_bad_T = ~np.isfinite(norms[spec.name])
            elif np.issubdtype(spec.dtype, np.floating):
                is_bad_T = ~np.isfinite(window[spec.name]).all(axis=-1)
            else:
                continue
            if is_bad_T.any():
                bad = np.flatnonzero(is_bad_T)
                row = bad[window["order"][bad].argmin()]
                raise ValueError(
                    f"{self.store}: {spec.name} is infinite or NaN at {len(bad)} of "
                    f"{window.n_rows} tokens, first at place {window['order'][row]} of the text "
                    f"(token id {window['token_id'][row]}); the model overflows its dtype or its "
                    f"weights are damaged: load it as bfloat16 or float32, or look at its weights"
                )


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
