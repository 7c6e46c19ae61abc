"""The one dense product of a step, and what of it exceeds a floor.

Pre-activations <encoder, x> + bias are made in blocks of features, into memory that is there
already; of each block only entries above a floor are kept, so that all pre-activations are never
held. On CPUs the search is numpy's, by as many threads as torch has, each with a slab of tokens.

Where the device multiplies bfloat16 many times as fast as float32 (GPUs, CPUs with AMX), the dense
product is made so, a little below the floor, and only says where to look: what it finds is computed
again in float32, and then held against the floor. That nothing was missed is seen from how far the
two are apart: if the farthest of a thousand or more is not half as far as we looked below the
floor, nobody else was twice as far; otherwise the product is made in float32. So results are those
of the float32 product, whatever the device.

Axes: T tokens, F features, B features of a block, R columns that a part reads.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepseemoe.dictionary import kernels
from deepseemoe.dictionary.blocks import BLOCK, GPU_BLOCK
from deepseemoe.dictionary.codes import Entries, dot_products, offsets_of
from deepseemoe.dictionary.layout import Part
from deepseemoe.dictionary.weights import Weights

SLAB = 2**19
"""Entries of a block that are worth a thread of their own."""

LEAST_MARGIN, MOST_MARGIN = 0.01, 0.1
"""How far below a floor the rough product looks, as shares of it."""

ROUNDING = 2.0**-8
"""Of a floor to bfloat16; it must not rise."""

SLACK = 1e-5
"""Numbers this near a floor may fall on either side of it, by how a product was summed."""

ENOUGH = 1000
"""Entries from which their farthest says how far others may be."""

WIDE = 256
"""Columns from which a rough product on a CPU is worth computing again what it finds."""


class Job(NamedTuple):
    """One part to encode: its place among the parts, itself, and what it reads, (T, R)."""

    index: int
    part: Part
    inputs_TR: Tensor

    def rows(self, tokens: Tensor) -> "Job":
        """Return the job for some of the tokens, which are then counted from 0."""
        return self._replace(inputs_TR=self.inputs_TR[tokens])


def jobs_of(parts: Sequence[Part], inputs_TC: Tensor, d_model: int) -> list[Job]:
    """Return all parts with what they read."""
    return [Job(i, part, part.read(inputs_TC, d_model)) for i, part in enumerate(parts)]


class Scanner:
    """Finds activations above a floor of each feature.

    Between calls it holds buffers, and a guess of how rough a rough product is, which costs time
    where it is wrong, but changes nothing.
    """

    def __init__(self) -> None:
        self._product = self._scaled = torch.empty(0)
        self._is_above = np.empty(0, dtype=bool)
        self._margin = LEAST_MARGIN

    def above(
        self,
        weights: Weights,
        jobs: Sequence[Job],
        floor_F: Tensor,
        *,
        scale_T: Tensor | None = None,
    ) -> Entries:
        """Return all activations above `floor_F`, sorted by token, then by feature.

        No floor is below 0. With `scale_T` a token's floors are so many times as high.
        """
        floor = Floor(floor_F, scale_T)
        if not _is_rough_fast(jobs[0].inputs_TR):
            return self._search(weights, jobs, floor)
        margin = self._margin
        lowered = floor.lowered(margin + ROUNDING, by=_lost_bias(weights.encoder_bias))
        if float(lowered.of_F.min()) > 0:
            rough = self._search(weights, jobs, lowered, torch.bfloat16)
            found, farthest = _again(weights, jobs, rough, floor)
            self._margin = min(max(LEAST_MARGIN, 3 * farthest), MOST_MARGIN)
            if 2 * farthest < margin and len(found.values) >= ENOUGH:
                return found
        return _again(weights, jobs, self._search(weights, jobs, floor.lowered(SLACK)), floor)[0]

    def _search(
        self,
        weights: Weights,
        jobs: Sequence[Job],
        floor: "Floor",
        dtype: torch.dtype | None = None,
    ) -> Entries:
        """Return what is above a floor in a product of some type, or of the inputs'."""
        found = [entries for job in jobs for entries in self._in_blocks(weights, job, floor, dtype)]
        return found[0] if len(found) == 1 else _merged(found, len(jobs[0].inputs_TR))

    def _in_blocks(
        self, weights: Weights, job: Job, floor: "Floor", dtype: torch.dtype | None
    ) -> Iterator[Entries]:
        """Yield the entries of each block of a part."""
        dtype = dtype or job.inputs_TR.dtype
        inputs_TR, floor_F = job.inputs_TR.to(dtype), floor.of_F.to(dtype)
        share_T1 = None if floor.scale_T is None else (1 / floor.scale_T).to(dtype)[:, None]
        width = GPU_BLOCK if inputs_TR.is_cuda else BLOCK
        for first in range(0, job.part.n_features, width):
            stop = min(first + width, job.part.n_features)
            span = slice(job.part.first + first, job.part.first + stop)
            encoder_BR = weights.encoders[job.index][first:stop].to(dtype)
            self._product = product_TB = _sized(self._product, inputs_TR, stop - first)
            bias_B = weights.encoder_bias[span].to(dtype)
            torch.addmm(bias_B, inputs_TR, encoder_BR.t(), out=product_TB)
            # What is compared may be scaled; what is taken is not, so that the same entry has the
            # same bits whether it was found with a scale or without.
            compared_TB = product_TB
            if share_T1 is not None:
                self._scaled = compared_TB = _sized(self._scaled, inputs_TR, stop - first)
                torch.mul(product_TB, share_T1, out=compared_TB)
            if fast := kernels.for_device(product_TB.device):
                tokens, features, _ = fast.above(compared_TB, floor_F[span])
                values = product_TB[tokens, features].to(job.inputs_TR.dtype)
                yield Entries(tokens, features + span.start, values)
                continue
            index = self._indices_above(compared_TB, floor_F[span])
            tokens = _divided(index, stop - first)
            features = index - tokens * (stop - first) + span.start
            yield Entries(tokens, features, product_TB.take(index).to(job.inputs_TR.dtype))

    def _indices_above(self, product_TB: Tensor, floor_B: Tensor) -> Tensor:
        """Return flat indices of entries above the floor, rising."""
        if product_TB.device.type != "cpu":
            return torch.nonzero((product_TB > floor_B).view(-1)).squeeze(1)
        if product_TB.dtype == torch.bfloat16:  # numpy has none, but bits of floats sort alike
            product_TB, floor_B = product_TB.view(torch.int16), floor_B.view(torch.int16)
        if self._is_above.size < product_TB.numel():
            self._is_above = np.empty(product_TB.numel(), dtype=bool)
        is_above_TB = self._is_above[: product_TB.numel()].reshape(product_TB.shape)
        return torch.from_numpy(_places(product_TB.numpy(), floor_B.numpy(), is_above_TB))


def _sized(old: Tensor, inputs_TR: Tensor, width: int) -> Tensor:
    """Return a (T, width) matrix to overwrite, in the memory of an old one where that will do.

    Fresh memory costs a fifth of the product.
    """
    size, store = len(inputs_TR) * width, old.untyped_storage()
    is_enough = store.nbytes() >= size * inputs_TR.element_size()
    if not is_enough or old.dtype != inputs_TR.dtype or old.device != inputs_TR.device:
        return inputs_TR.new_empty(len(inputs_TR), width)
    return old.as_strided((len(inputs_TR), width), (width, 1), 0)


def _divided(index: Tensor, width: int) -> Tensor:
    """Return `index` // `width`; numpy divides by one number in a tenth of torch's time."""
    return (
        torch.from_numpy(index.numpy() // width) if index.device.type == "cpu" else index // width
    )


def _is_rough_fast(inputs_TR: Tensor) -> bool:
    """Return whether the device multiplies bfloat16 much faster than the inputs' type."""
    if inputs_TR.dtype != torch.float32:
        return False
    if inputs_TR.device.type == "cpu":
        return inputs_TR.shape[1] >= WIDE and _has_amx()
    return inputs_TR.is_cuda


@cache
def _has_amx() -> bool:
    """Return whether this CPU has units for products of bfloat16."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def _lost_bias(bias_F: Tensor) -> Tensor:
    """Return how much lower each bias is in bfloat16.

    All tokens of a feature are off by it, so none of them might be found to tell of it.
    """
    return (bias_F - bias_F.to(torch.bfloat16)).clamp_min(0.0)


class Floor(NamedTuple):
    """What activations must exceed: a number of each feature, times one of each token."""

    of_F: Tensor
    scale_T: Tensor | None

    def lowered(self, share: float, *, by: Tensor | None = None) -> "Floor":
        """Return the floor lower by a share, and by some activation of each feature."""
        of_F = self.of_F * (1 - share)
        if by is not None:
            of_F -= by if self.scale_T is None else by / self.scale_T.min()
        return self._replace(of_F=of_F)

    def of(self, entries: Entries) -> Tensor:
        """Return the floor of each entry."""
        of_feature = self.of_F[entries.features]
        return of_feature if self.scale_T is None else of_feature * self.scale_T[entries.tokens]


def _again(
    weights: Weights, jobs: Sequence[Job], rough: Entries, floor: Floor
) -> tuple[Entries, float]:
    """Return the entries that are above the floor when computed again, and how far any was off.

    Whichever product found them, these are the same numbers.
    """
    values = _exactly(weights, jobs, rough)
    index = torch.nonzero(values > floor.of(rough)).squeeze(1)
    found = Entries(rough.tokens[index], rough.features[index], values[index])
    apart = (rough.values[index] - found.values).abs() / found.values
    return found, float(apart.max()) if len(apart) else 0.0


def _exactly(weights: Weights, jobs: Sequence[Job], entries: Entries) -> Tensor:
    """Return the pre-activations of entries, float32."""
    values = weights.encoder_bias[entries.features]
    for job in jobs:
        mine, places = entries, slice(None)
        if len(jobs) > 1:
            is_mine = (entries.features >= job.part.first) & (entries.features < job.part.stop)
            places = torch.nonzero(is_mine).squeeze(1)
            mine = Entries(*(part[places] for part in entries))
        offsets = offsets_of(mine.tokens, len(job.inputs_TR))
        columns = mine.features - job.part.first
        encoder_FR = weights.encoders[job.index]
        values[places] += dot_products(job.inputs_TR.contiguous(), encoder_FR, offsets, columns)
    return values


def _places(product_TB: np.ndarray, floor_B: np.ndarray, is_above_TB: np.ndarray) -> np.ndarray:
    """Return flat indices of entries above the floor, rising, by threads that share the tokens."""
    n_tokens, width = product_TB.shape
    n_slabs = max(1, min(torch.get_num_threads(), product_TB.size // SLAB))
    edges = [n_tokens * slab // n_slabs for slab in range(n_slabs + 1)]

    def search(start: int, stop: int) -> np.ndarray:
        is_above = is_above_TB[start:stop]
        np.greater(product_TB[start:stop], floor_B, out=is_above)
        return np.flatnonzero(is_above) + start * width

    if n_slabs == 1:
        return search(0, n_tokens)
    return np.concatenate([*_threads(n_slabs).map(search, edges[:-1], edges[1:])])


@lru_cache(maxsize=4)
def _threads(n: int) -> ThreadPoolExecutor:
    """Return threads that live as long as the process."""
    return ThreadPoolExecutor(n, thread_name_prefix="scan")


def _merged(found: Sequence[Entries], n_tokens: int) -> Entries:
    """Return entries of several blocks, which rise in features, in one order."""
    tokens, features, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    if tokens.device.type == "cpu" and n_tokens <= 2**16:
        short = tokens.numpy().astype("uint16")  # numpy sorts 16-bit numbers by radix
        order = torch.from_numpy(short.argsort(kind="stable"))
    else:
        order = torch.sort(tokens, stable=True).indices
    return Entries(tokens[order], features[order], values[order])


def floors(norm_F: Tensor, floor: float) -> Tensor:
    """Return the activation at which each feature's score is `floor`; infinite at norm 0."""
    return torch.where(norm_F > 0, floor / norm_F, torch.inf)
