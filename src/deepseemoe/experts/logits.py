"""The logits of routers on valid tokens in text order, read from the stores a block at a time.

Axes: T valid tokens, E experts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deepseemoe.activations.store import ActivationStore
from deepseemoe.names import Site


class RouterLogits(NamedTuple):
    """Where the logits of each layer lie: `rows` are the store rows of each shard's valid tokens.

    `starts` are the places in the split at which shards begin, and its end.
    """

    stores: Sequence[ActivationStore]
    rows: Sequence[np.ndarray]
    starts: np.ndarray
    layers: tuple[int, ...]

    @classmethod
    def of(
        cls, stores: Sequence[ActivationStore], rows: Sequence[np.ndarray], layers: Sequence[int]
    ) -> "RouterLogits | None":
        """Return them where all stores hold the logits of all `layers`, else None."""
        names = {str(Site("router_logits", layer)) for layer in layers}
        if not all(names <= set(store.names) for store in stores):
            return None
        starts = np.concatenate([[0], np.cumsum([part.size for part in rows])])
        return cls(stores, rows, starts, tuple(layers))

    def over(self, places: slice) -> "RouterLogits":
        """Return those of some layers."""
        return self._replace(layers=self.layers[places])

    def centred(self, start: int, stop: int) -> np.ndarray:
        """Return logits less their mean over the experts of the layer, float32 (T, L * E).

        Adding one number to all logits of a router changes none of its choices.
        """
        first, last = np.searchsorted(self.starts, [start, stop - 1], side="right") - 1
        parts = [self._of_shard(shard, start, stop) for shard in range(first, last + 1)]
        return np.concatenate(parts)

    def _of_shard(self, shard: int, start: int, stop: int) -> np.ndarray:
        begin = self.starts[shard]
        rows = self.rows[shard][max(start - begin, 0) : stop - begin]
        names = (str(Site("router_logits", layer)) for layer in self.layers)
        logits = (self.stores[shard][name].gather(rows) for name in names)
        return np.concatenate([x - x.mean(1, keepdims=True) for x in logits], axis=1)
