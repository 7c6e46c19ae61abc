"""The second pass over the stream: in which contexts a feature is on, and how strongly.

Memory: 32 bytes a row, and 4 bytes a token of the contexts that are shown with their activations.

F features, R rows (contexts, shown or drawn) sorted by feature and place, W tokens of shown ones.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepseemoe.config import FeaturesConfig
from deepseemoe.features import kernels
from deepseemoe.features.candidates import Rows, Sources, rows_of
from deepseemoe.features.contexts import quotas, rank_in_run
from deepseemoe.features.stream import FeatureStream, Text
from deepseemoe.features.text import IntArray
from deepseemoe.runtime.progress import Progress

BLOCK_FEATURES = 512
"""Features whose contexts are chosen at once."""


class Extents(NamedTuple):
    """Contexts as they lie in the text, (R,) each."""

    first: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    targets: npt.NDArray[np.int64]
    """Where the activations of the context begin in `z_W`; -1 where it must be off"""


class Contexts(NamedTuple):
    """Contexts with their activations, sorted by feature, half, group and rank; (R,) each."""

    rows: Rows
    ranks: IntArray
    first: IntArray
    lengths: IntArray
    z_W: npt.NDArray[np.float32]
    """Activations, one context after the other."""


class Activity:
    """All contexts of all features, and what the second pass found in them."""

    def __init__(self, sources: Sources):
        """Choose and draw the contexts of every feature."""
        self._config, d_dict = sources.config, len(sources.found.sums_F)
        blocks = []
        for features in _blocks(d_dict):
            rows = rows_of(sources, features)
            blocks.append([*rows, *_extents(rows, sources.text, sources.config)])
        columns = list(_joined(blocks))
        self._rows = Rows(*columns[: len(Rows._fields)])
        self._extents = Extents(*columns[len(Rows._fields) :])
        n_tokens = np.where(self._extents.targets < 0, 0, self._extents.lengths)
        ends = np.cumsum(n_tokens)
        self._extents.targets[n_tokens > 0] = (ends - n_tokens)[n_tokens > 0]
        self._z_W = np.zeros(int(ends[-1]) if len(ends) else 0, np.float32)
        counts = np.bincount(self._rows.features, minlength=d_dict)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._is_on = np.zeros(len(n_tokens), bool)

    @property
    def n_drawn(self) -> int:
        """Contexts that are shown or may be."""
        return len(self._is_on)

    def look_up(self, stream: FeatureStream) -> None:
        """Find out where contexts are on; raise ValueError where a shard is damaged."""
        first, lengths, targets = self._extents
        cursors = np.zeros(len(self._starts) - 1, kernels.CURSOR)
        cursors["row"] = self._starts[:-1]
        progress = Progress("read contexts", stream.n_active, unit="activations")
        for run in stream.runs():
            tables = self._starts, cursors, first, lengths, targets, self._is_on, self._z_W
            kernels.look_up(*run, *tables)
            progress.advance(len(run.features))

    def contexts(self) -> Iterator[Contexts]:
        """Yield what is shown, block by block of features."""
        edges = self._starts[[*range(0, len(self._starts) - 1, BLOCK_FEATURES), -1]]
        for start, stop in zip(edges, edges[1:], strict=False):
            yield self._shown(slice(start, stop))

    def _shown(self, part: slice) -> Contexts:
        """Return the contexts of some rows: all with the feature, the first ones without it."""
        rows, targets = self._rows.take(part), self._extents.targets[part]
        kept = np.flatnonzero((targets >= 0) | ~self._is_on[part])
        rows = rows.take(kept)
        order = np.lexsort((rows.order, rows.groups, rows.halves, rows.features))
        kept, rows = kept[order], rows.take(order)
        ranks = rank_in_run(rows.features, rows.halves, rows.groups)
        is_shown = ranks < quotas(self._config)[rows.groups]
        kept, rows, ranks = kept[is_shown], rows.take(is_shown), ranks[is_shown]
        first, lengths = self._extents.first[part][kept], self._extents.lengths[part][kept]
        z_W = np.zeros(int(lengths.sum()), np.float32)
        is_positive = np.repeat(targets[kept] >= 0, lengths)
        z_W[is_positive] = self._z_W[ranges(targets[kept], lengths)[is_positive]]
        return Contexts(rows, ranks, first, lengths, z_W)


def _blocks(d_dict: int) -> Iterator[IntArray]:
    for start in range(0, d_dict, BLOCK_FEATURES):
        yield np.arange(start, min(start + BLOCK_FEATURES, d_dict))


def _extents(rows: Rows, text: Text, config: FeaturesConfig) -> Extents:
    """Return where rows lie, within their segments."""
    segment = text.segment_of(rows.places)
    first = np.maximum(rows.places - config.context_before, text.segments[segment])
    last = np.minimum(rows.places + config.context_after, text.segments[segment + 1] - 1)
    is_positive = rows.groups <= config.n_quantiles
    targets = np.where(is_positive, 0, -1)
    return Extents(first, (last - first + 1).astype(np.int32), targets)


def _joined(blocks: Sequence[list[npt.NDArray]]) -> Iterator[npt.NDArray]:
    """Yield each column of all blocks, which are emptied on the way: memory holds one of them twice."""
    while blocks[0]:
        yield np.concatenate([block.pop(0) for block in blocks])


def ranges(first: IntArray, lengths: IntArray) -> IntArray:
    """Return first, first + 1 … of each row, one row after the other; rows may be empty."""
    lengths = lengths.astype(np.int64)
    shift = first - (np.cumsum(lengths) - lengths)
    return np.arange(int(lengths.sum())) + np.repeat(shift, lengths)
