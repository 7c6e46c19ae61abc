"""The first pass over the stream: sums of every feature, its top peaks, and a sample of the others.

Peaks of each half of the documents are kept apart. The sample (reservoir) holds the peaks with the
lowest priorities, a hash of seed, feature and place: uniform, and the same however the text is cut
into shards and runs. What quantiles and the tokens of near misses rest on is this sample; of a
feature with fewer peaks it is all of them.

Memory: 2 · (14 n_top + 12 n_sampled) + 120 bytes a feature, nothing a token or activation.

F features, H halves, N top contexts, P places of a reservoir, nnz activations.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from deepseemoe.config import FeaturesConfig
from deepseemoe.features import kernels
from deepseemoe.features.contexts import n_quantile_contexts, width
from deepseemoe.features.halves import mixed
from deepseemoe.features.stream import FeatureStream
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.seeds import seed_for

N_SAMPLED = 256
"""Peaks in a reservoir: a quantile of the sample lies within 3 % of the true one (one SE)."""

PER_CONTEXT = 4
"""Sampled peaks for every context that is drawn from quantiles, at least."""


class Survey(NamedTuple):
    """What the first pass keeps."""

    sums_F: npt.NDArray[np.void]
    """(F,) of `kernels.FEATURE`"""
    halves_FH: npt.NDArray[np.void]
    """(F, H) of `kernels.HALF`"""
    top_places: npt.NDArray[np.int64]
    """(F, H, N), of which the first `n_top` are filled, in no order"""
    top_values: npt.NDArray[np.float32]
    top_repeats: npt.NDArray[np.int16]
    """(F, H, N) how many stronger peaks of the feature the same document has"""
    pool_places: npt.NDArray[np.int64]
    """(F, H, P), of which the first `n_peaks` are filled, in no order"""
    pool_values: npt.NDArray[np.float32]

    def add(self, peaks: npt.NDArray[np.void], doc_ids: npt.NDArray[np.uint32]) -> None:
        """Take in peaks, `kernels.PEAK`, in text order."""
        halves_FH = self.halves_FH
        top = self.top_places, self.top_values, self.top_repeats
        kernels.add_top(peaks, halves_FH, doc_ids, *top)
        kernels.add_sample(peaks, self.sums_F, halves_FH, self.pool_places, self.pool_values)

    @property
    def n_sampled_FH(self) -> npt.NDArray[np.int64]:
        """(F, H): peaks in each reservoir."""
        return np.minimum(self.halves_FH["n_peaks"], self.pool_places.shape[2])


def survey(stream: FeatureStream, config: FeaturesConfig, seed: int) -> Survey:
    """Return sums and peaks of every feature; raise ValueError where a shard is damaged."""
    text, found = stream.text, _empty(stream.d_dict, config, seed)
    progress = Progress("find peaks", stream.n_active, unit="activations")
    for run in stream.runs():
        peaks = np.empty(len(run.features), kernels.PEAK)
        known = text.segments, text.half_S, text.doc_ids, width(config)
        n_peaks = kernels.find_peaks(*run, *known, found.sums_F, peaks)
        found.add(peaks[:n_peaks], text.doc_ids)
        progress.advance(len(run.features))
    peaks = np.empty(2 * stream.d_dict, kernels.PEAK)
    n_peaks = kernels.last_peaks(found.sums_F, width(config), peaks)
    found.add(peaks[:n_peaks], text.doc_ids)
    return found


def _empty(d_dict: int, config: FeaturesConfig, seed: int) -> Survey:
    """Return a survey of nothing."""
    sums_F = np.zeros(d_dict, kernels.FEATURE)
    sums_F["salt"] = mixed(np.arange(d_dict) ^ seed_for(seed, "peaks"))
    for name in ("document", "open_place", "held_place"):
        sums_F[name] = -1
    halves_FH = np.zeros((d_dict, 2), kernels.HALF)
    halves_FH["least"] = -np.inf
    top, pool = (d_dict, 2, config.n_top), (d_dict, 2, n_sampled(config))
    return Survey(
        *(sums_F, halves_FH),
        *(np.zeros(top, np.int64), np.zeros(top, np.float32), np.zeros(top, np.int16)),
        *(np.zeros(pool, np.int64), np.zeros(pool, np.float32)),
    )


def n_sampled(config: FeaturesConfig) -> int:
    """Return the places of a reservoir."""
    return max(N_SAMPLED, config.n_top + PER_CONTEXT * n_quantile_contexts(config))


def densities(found: Survey, n_valid: int) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of density.parquet, each (F,); features that never fire have zeros."""
    sums_F = found.sums_F
    return {
        "feature": np.arange(len(sums_F)),
        "n_active": sums_F["n_active"],
        "density": sums_F["n_active"] / max(n_valid, 1),
        "mean_activation": sums_F["total"] / np.maximum(sums_F["n_active"], 1),
        "max_activation": sums_F["highest"].astype(np.float64),
        "n_documents": sums_F["n_documents"],
    }
