"""Batches from a running model: the live twin of `CachedBatches`.

All dictionaries of a run draw from the same pool, so one forward pass serves every window and kind.

Axes: T tokens, D d_model, L layers of the window, C = L * D columns.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from deepseemoe.activations.pool import Pool
from deepseemoe.dictionary.batches import Batch, Sites
from deepseemoe.dictionary.normalisation import Normalisation


class LiveBatches:
    """Batches of one window and kind, on the pool's device; a function of seed and step.

    Normalised by the moments of the pool's first chunk. A round of the pool is as many batches as
    fit into a chunk.
    """

    def __init__(
        self, pool: Pool, read: Sequence[str], written: Sequence[str], *, batch_tokens: int
    ) -> None:
        """Look at the first chunk; `read` and `written` are sites.

        Raises ValueError where a chunk is less than one batch.
        """
        self.per_round = pool.chunk_tokens // batch_tokens
        if not self.per_round:
            raise ValueError(
                f"batches.buffer_tokens leaves {pool.chunk_tokens} tokens to a round, less than "
                f"one batch of batch_tokens {batch_tokens}; raise the one or lower the other"
            )
        moments = pool.moments()
        self.reads, self.writes = (
            Sites(tuple(names), Normalisation.from_moments({name: moments[name] for name in names}))
            for names in (read, written)
        )
        self._pool, self._batch_tokens = pool, batch_tokens
        self._reading, self._writing = (
            sites.normalisation.to(pool.device) for sites in (self.reads, self.writes)
        )

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""
        number, index = divmod(step, self.per_round)
        rows_T = self._pool.rows(number, index * self._batch_tokens, self._batch_tokens)
        inputs_TC = self._gather(self.reads, self._reading, rows_T)
        if self.writes.names == self.reads.names:
            return Batch(inputs_TC, inputs_TC)
        return Batch(inputs_TC, self._gather(self.writes, self._writing, rows_T))

    def _gather(self, sites: Sites, normalisation: Normalisation, rows_T: Tensor) -> Tensor:
        """Return normalised activations, layers side by side, (T, C)."""
        raw_TLD = torch.stack([self._pool.gather(name, rows_T) for name in sites.names], dim=1)
        return normalisation.apply(raw_TLD.float()).flatten(1)
