"""Batches of normalised activations, and where they come from.

`Batches` is all that training knows of a source: the batch of a step. From stores (`CachedBatches`)
that is a pure function of seed and step, so a run that resumes at step n needs no reader's state.
Stores permute their rows inside windows when they are written, so reading whole chunks in a random
order mixes nearly as well as random rows (design effect 1.1 with windows of 32k tokens).

Axes: T tokens, D d_model, L layers of the window, C = L * D columns.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from deepseemoe.activations.store import ActivationStore
from deepseemoe.dictionary.normalisation import Normalisation
from deepseemoe.runtime.seeds import generator


class Batch(NamedTuple):
    """Normalised activations of T tokens; `targets_TC` is `inputs_TC` itself for a crosscoder."""

    inputs_TC: Tensor
    targets_TC: Tensor

    def to(self, device: str | torch.device) -> "Batch":
        """Return the batch on `device`, a shared tensor still shared."""
        inputs_TC = self.inputs_TC.to(device)
        shared = self.targets_TC is self.inputs_TC
        return Batch(inputs_TC, inputs_TC if shared else self.targets_TC.to(device))


class Batches(Protocol):
    """A source of batches: stores (`CachedBatches`) or a running model (`LiveBatches`)."""

    reads: "Sites"
    writes: "Sites"

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0; the same for the same step."""
        ...


class Sites(NamedTuple):
    """What a dictionary reads or writes of a window, array by array, and how it is normalised."""

    names: tuple[str, ...]
    normalisation: Normalisation

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.normalisation.mean_LD.shape[1]

    @classmethod
    def of(cls, stores: Sequence[ActivationStore], names: Sequence[str]) -> "Sites":
        """Return some sites, normalised by the stores' statistics."""
        return cls(tuple(names), Normalisation.of(stores, names))

    def only(self, names: Sequence[str]) -> "Sites":
        """Return some of these sites, in the order of `names`."""
        places = [self.names.index(name) for name in names]
        return Sites(tuple(names), Normalisation(*(part[places] for part in self.normalisation)))


def open_stores(paths: Sequence, names: Sequence[str]) -> list[ActivationStore]:
    """Open stores; raise ValueError where there is none, or where one lacks an array of `names`."""
    stores = [ActivationStore(path) for path in paths]
    if not stores:
        raise ValueError("no activation store was given; expected at least one")
    for path, store in zip(paths, stores, strict=True):
        if missing := [name for name in names if name not in store.sites]:
            raise ValueError(
                f"{path}: the store lacks {', '.join(missing)}; it holds {', '.join(store.sites)}; "
                "run cache_activations again with the windows and dictionaries of this run"
            )
    return stores


class CachedBatches:
    """Batches from activation stores, over and over, each time in another order of chunks.

    An epoch is a random order of all chunks of all stores. Its valid rows, in that order, are cut
    into batches of `batch_tokens`; the rest at the end is left out.
    """

    def __init__(
        self,
        stores: Sequence[ActivationStore],
        *,
        reads: Sites,
        writes: Sites,
        batch_tokens: int,
        seed: int,
    ) -> None:
        """Look at which rows are valid; raise ValueError where they do not fill one batch."""
        self.reads, self.writes = reads, writes
        self._stores = stores
        self._batch_tokens, self._seed = batch_tokens, seed
        self._is_valid = [store.valid_rows() for store in stores]
        self._chunks = [
            (index, start, min(start + store[reads.names[0]].chunk_tokens, store.n_tokens))
            for index, store in enumerate(stores)
            for start in range(0, store.n_tokens, store[reads.names[0]].chunk_tokens)
        ]
        self._counts = np.array(
            [int(self._is_valid[index][start:stop].sum()) for index, start, stop in self._chunks]
        )
        self.n_valid = int(self._counts.sum())
        self.per_epoch = self.n_valid // batch_tokens
        if self.per_epoch == 0:
            raise ValueError(
                f"the stores hold {self.n_valid} valid tokens, less than one batch of batch_tokens "
                f"{batch_tokens}; cache more text or lower batch_tokens"
            )
        self._order = lru_cache(maxsize=2)(self._order_of)

    def batch(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""
        epoch, index = divmod(step, self.per_epoch)
        pieces = list(self._pieces(epoch, index * self._batch_tokens))
        inputs_TC = self._gather(pieces, self.reads)
        shared = self.writes.names == self.reads.names
        return Batch(inputs_TC, inputs_TC if shared else self._gather(pieces, self.writes))

    def _order_of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of chunks in an epoch, and how many valid rows come before each."""
        order = generator(self._seed, "dictionary", "epoch", epoch).permutation(len(self._chunks))
        return order, np.concatenate([[0], np.cumsum(self._counts[order])])

    def _pieces(self, epoch: int, first: int) -> Iterator[tuple[int, int, int, np.ndarray]]:
        """Yield store, rows from and to, and which of them to take, for one batch."""
        order, before = self._order(epoch)
        last = first + self._batch_tokens
        place = int(np.searchsorted(before, first, side="right")) - 1
        while before[place] < last:
            index, start, stop = self._chunks[order[place]]
            rows = np.flatnonzero(self._is_valid[index][start:stop])
            yield index, start, stop, rows[max(0, first - before[place]) : last - before[place]]
            place += 1

    def _gather(self, pieces: Sequence[tuple[int, int, int, np.ndarray]], sites: Sites) -> Tensor:
        """Return normalised activations of the pieces, layers side by side, (T, C)."""
        mean_LD, scale_L = (part.numpy() for part in sites.normalisation)
        out_TLD = np.empty((self._batch_tokens, *mean_LD.shape), dtype=np.float32)
        filled = 0
        for index, start, stop, rows in pieces:
            target = out_TLD[filled : filled + len(rows)]
            for layer, name in enumerate(sites.names):
                values = self._stores[index].floats(name, start, stop)[rows]
                values -= mean_LD[layer]
                np.multiply(values, scale_L[layer], out=target[:, layer])
            filled += len(rows)
        return torch.from_numpy(out_TLD.reshape(self._batch_tokens, -1))


def prefetched(source: Batches, start: int, stop: int) -> Iterator[Batch]:
    """Yield the batches of steps `start` to `stop` - 1, the next read in a background thread."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
        following = pool.submit(source.batch, start) if start < stop else None
        for step in range(start, stop):
            batch = following.result()
            if step + 1 < stop:
                following = pool.submit(source.batch, step + 1)
            yield batch


def valid_blocks(
    store: ActivationStore, names: Sequence[str], *, block_tokens: int = 4096
) -> Iterator[np.ndarray]:
    """Yield raw activations (T, L, D) of a store's valid rows, at most `block_tokens` at a time."""
    is_valid = store.valid_rows()
    for start in range(0, store.n_tokens, block_tokens):
        stop = min(start + block_tokens, store.n_tokens)
        valid = is_valid[start:stop]
        if valid.any():
            yield np.stack([store.floats(name, start, stop)[valid] for name in names], axis=1)
