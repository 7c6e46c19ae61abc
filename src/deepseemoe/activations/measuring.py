"""Measuring full windows where they lie, and what that says of all windows together.

Windows may be measured at the same time: what is found is kept by window, and put together in the
order of the text at the end, so results do not depend on which thread was faster.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepseemoe.activations.drain import Drain
from deepseemoe.activations.layout import BFLOAT16, ArraySpec
from deepseemoe.activations.moments import Blocks, Moments, measure_rows, mend_blocks
from deepseemoe.activations.statistics import norm_quantiles, valid_rows
from deepseemoe.activations.window import WindowBuffer


class Measured(NamedTuple):
    """A site in one window: norms of its valid rows, and their moments by block."""

    norms_T: NDArray[np.float32]
    blocks: Blocks


class Measurements:
    """Measures the sites of windows; errors name `store`."""

    def __init__(
        self, arrays: Sequence[ArraySpec], drain: Drain, *, store: Path, norm_outlier: float
    ):
        self._drain, self._store, self._norm_outlier = drain, store, norm_outlier
        sites = [spec for spec in arrays if spec.view_dtype == BFLOAT16]
        self.widths = {spec.name: spec.width or 1 for spec in sites}
        self._other_floats = [s.name for s in arrays if np.issubdtype(s.dtype, np.floating)]
        self._windows: dict[int, dict[str, Measured]] = {}

    def measure(self, window: WindowBuffer) -> NDArray[np.bool_]:
        """Return which rows of a window to train on (T,), and keep what is measured of them.

        Whether a row is an outlier is known once all are measured; until then all but position 0
        count. Raises ValueError where a value is not finite.
        """
        positions_T = window["position"].numpy()
        is_inside_T = positions_T > 0
        norms, blocks = {}, {}
        for site in self.widths:
            with self._drain.reading(window, site) as values_TD:
                norms[site], blocks[site] = measure_rows(values_TD, is_inside_T)
        self._check_finite(window, norms)
        residuals = {site: norms[site] for site in norms if site.startswith("resid_")}
        is_valid_T = valid_rows(positions_T, residuals, self._norm_outlier)
        measured = {}
        for site, norms_T in norms.items():
            with self._drain.reading(window, site) as values_TD:
                mended = mend_blocks(blocks[site], values_TD, is_inside_T, is_valid_T)
            measured[site] = Measured(norms_T[is_valid_T].astype(np.float32), mended)
        self._windows[window.index] = measured
        return is_valid_T

    def moments(self, site: str) -> Moments:
        """Return mean and variance of a site over the valid rows of all windows."""
        moments = Moments(self.widths[site])
        for measured in self._of(site):
            for n_rows, mean_D, square_sum_D, _ in zip(*measured.blocks, strict=True):
                moments.add(int(n_rows), mean_D, square_sum_D)
        return moments

    def attributes(self, site: str) -> dict[str, Any]:
        """Return what a site's metadata says of the valid rows of all windows."""
        parts = [measured.norms_T for measured in self._of(site)]
        norms_T = np.concatenate(parts) if parts else np.empty(0, np.float32)
        return {"n_valid": len(norms_T), "norm_quantiles": norm_quantiles(norms_T)}

    def _of(self, site: str) -> list[Measured]:
        return [self._windows[index][site] for index in sorted(self._windows)]

    def _check_finite(self, window: WindowBuffer, norms: Mapping[str, NDArray[np.float64]]) -> None:
        """Raise ValueError at the first token, in text order, with a value that is not finite."""
        for name, norms_T in norms.items():
            self._refuse(window, name, ~np.isfinite(norms_T))
        for name in self._other_floats:
            with self._drain.reading(window, name) as values:
                self._refuse(window, name, ~values.isfinite().all(-1).cpu().numpy())

    def _refuse(self, window: WindowBuffer, name: str, is_bad_T: NDArray[np.bool_]) -> None:
        """Raise ValueError where any row is bad."""
        if not is_bad_T.any():
            return
        row = int(is_bad_T.argmax())
        raise ValueError(
            f"{self._store}: {name} is infinite or NaN at {is_bad_T.sum()} of {window.n_rows} "
            f"tokens, first at place {window.first_place + row} of the text (token id "
            f"{window['token_id'][row]}); the model overflows its dtype or its weights are "
            "damaged: load it as bfloat16 or float32, or look at its weights"
        )
