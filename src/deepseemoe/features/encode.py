"""Encode a test shard: stored activations in, sparse features in text order out.

Stores permute their rows inside windows. A *span* is a run of rows that holds exactly the same
places of the text, so it can be encoded, put in order and written before the next one is read:
memory is bounded by one span's activations, whatever the shard's length.

T tokens, L layers of the window, D d_model, F features.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from deepseemoe.activations.store import ActivationStore
from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.dictionary.folder import WEIGHTS
from deepseemoe.features.store import TOKEN_ARRAYS, FeatureWriter
from deepseemoe.names import Site
from deepseemoe.runtime.files import growing
from deepseemoe.runtime.fingerprint import sampled_digest
from deepseemoe.runtime.progress import Progress

SPAN = 1 << 15
"""Tokens that are put in order together, at least; short spans are joined."""

BATCH = 4096
"""Tokens that are read and encoded at once."""


def encode_features(
    *,
    dictionary: Path,
    store: Path,
    output: Path,
    device: str,
    manifest: Mapping[str, Any],
    model: Dictionary | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the features of one activation store to `output`, a feature shard, in text order.

    `dictionary` is a folder; `model` is the same on `device`, where the caller has it already.
    `progress` is told of each span. Only valid rows are encoded. Raises ValueError where the store
    lacks what the dictionary reads.
    """
    model, source = model or Dictionary.load(dictionary).to(device), ActivationStore(store)
    sites = _sites(model, source)
    weights = sampled_digest(dictionary / WEIGHTS)
    own = {"window": str(model.window), "weights": weights, "store": source.manifest}
    manifest = {**manifest, **own}
    order, progress = source.text_order(), progress or Progress("encode_features", source.n_tokens)
    with growing(output) as partial:
        writer = FeatureWriter(partial, d_dict=model.d_dict, manifest=manifest)
        for start, stop in spans(order):
            rows = order[start:stop] - start
            tokens = {name: source[name].read(start, stop)[rows] for name in TOKEN_ARRAYS}
            matrix = _encode(model, source, sites, start, stop)[rows]
            writer.append(matrix, tokens)
            progress.advance(stop - start, l0=matrix.nnz / max(int(tokens["is_valid"].sum()), 1))


def spans(order: npt.NDArray[np.int64], least: int = SPAN) -> Iterator[tuple[int, int]]:
    """Yield runs [start, stop) of places in the text whose rows are the same run.

    `order` (T,) holds the row of each place. Runs have `least` tokens or more, but for the last.
    """
    is_closed = np.maximum.accumulate(order) == np.arange(len(order))
    stops = np.flatnonzero(is_closed) + 1
    start = 0
    while start < len(order):
        reached = min(np.searchsorted(stops, start + least), len(stops) - 1)
        stop = int(stops[reached])
        yield start, stop
        start = stop


def _sites(model: Dictionary, source: ActivationStore) -> list[str]:
    """Return the sites that the dictionary reads; raise ValueError where the store lacks one."""
    sites = [str(Site(model.reads, layer)) for layer in model.window.layers]
    for site in sites:
        if (width := source[site].shape[1]) != model.d_model:
            raise ValueError(
                f"{source.path}: {site} has d_model {width}, the dictionary {model.d_model}; "
                "expected files of one run; train the dictionary again"
            )
    return sites


def _encode(
    model: Dictionary, source: ActivationStore, sites: list[str], start: int, stop: int
) -> sparse.csr_array:
    """Return the features (T, F) of rows start … stop - 1; rows that are not valid stay empty."""
    blocks = []
    for first in range(start, stop, BATCH):
        last = min(first + BATCH, stop)
        is_valid = source["is_valid"].read(first, last) > 0
        layers = [source.floats(site, first, last)[is_valid] for site in sites]
        codes = model.encode(np.stack(layers, axis=1))  # (T, L, D)
        offsets = np.zeros(last - first + 1, np.int64)
        offsets[1:][is_valid] = np.diff(codes.offsets)
        entries = codes.values, codes.features, np.cumsum(offsets)
        blocks.append(sparse.csr_array(entries, shape=(last - first, model.d_dict)))
    return sparse.vstack(blocks, format="csr")
