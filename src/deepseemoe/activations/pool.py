"""A pool of activations that the running model fills while others train from it.

The model reads the train split in *chunks* of whole sequences. Three chunks are held: two make the
pool of the current *round*, and the model fills the third meanwhile. Round r draws from a random
half of chunk r and the other half of chunk r + 1, so neighbours of a text are spread over two
rounds and every row is served once. A chunk depends on the seed and its number alone, and a round
on its two chunks: whoever goes on at round r has the same rows again after two forward passes over
a chunk, and nothing of the pool needs to be stored.

Rows are kept as the stores keep them: bfloat16, without position 0 and without outlying norms.

Axes: S sequences, N sequence length, R rows of the ring (three chunks of S * N), T tokens,
D d_model.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from deepseemoe.activations.shuffled_text import ShuffledText
from deepseemoe.activations.streams import SideStreams
from deepseemoe.model.adapter import MoeModel
from deepseemoe.model.tokens import TokenBatch
from deepseemoe.runtime.seeds import generator

N_CHUNKS = 3


class Pool:
    """Activations of `sites` on `device`, served round by round; a context manager.

    `buffer_tokens` bounds the rows that are held; the model works ahead up to `last_round`. While
    the pool is open, the model is its alone.
    """

    def __init__(
        self,
        model: MoeModel,
        text: ShuffledText,
        sites: Sequence[str],
        *,
        device: str,
        buffer_tokens: int,
        batch_sequences: int,
        norm_outlier: float,
        seed: int,
    ):
        """Allocate the ring; raise ValueError where `buffer_tokens` holds no three sequences."""
        self._model, self._text, self._seed = model, text, seed
        self._batch_sequences, self._norm_outlier = batch_sequences, norm_outlier
        self._n_sequences = buffer_tokens // N_CHUNKS // text.sequence_length
        if not self._n_sequences:
            raise ValueError(
                f"batches.buffer_tokens {buffer_tokens} holds no {N_CHUNKS} sequences of "
                f"{text.sequence_length} tokens; raise it"
            )
        self.device = torch.device(device)
        self.chunk_tokens = self._n_sequences * text.sequence_length
        shape = (N_CHUNKS * self.chunk_tokens, model.d_model)
        self._ring = {
            site: torch.empty(shape, dtype=torch.bfloat16, device=self.device) for site in sites
        }
        self._is_valid_R = np.zeros(shape[0], bool)
        self._chunks: dict[int, Future[None]] = {}
        self._order_T = torch.empty(0, dtype=torch.int64)
        self._round: int | None = None
        self.last_round = 0
        self._streams = SideStreams(model.devices, self.device)
        self._worker = ThreadPoolExecutor(
            1, "live-model", initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)
        )

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)

    def rows(self, number: int, first: int, n_tokens: int) -> Tensor:
        """Return which ring rows are tokens `first` … of a round, in its random order, (T,).

        A round has a few rows less than a chunk, those that are not valid; it begins again where
        more are asked for. Waits for the model where it is behind.
        """
        if number != self._round:
            self._enter(number)
        place_T = torch.arange(first, first + n_tokens, device=self.device)
        return self._order_T[place_T % len(self._order_T)]

    def gather(self, site: str, rows_T: Tensor) -> Tensor:
        """Return the activations of ring rows, bfloat16 (T, D)."""
        return self._ring[site].index_select(0, rows_T)

    def moments(self) -> dict[str, tuple[int, Tensor, Tensor]]:
        """Return number, mean (D,) and variance (D,) of the valid rows of chunk 0, by site."""
        self._wait(0)
        rows_T = torch.from_numpy(np.flatnonzero(self._is_valid_R[: self.chunk_tokens]))
        rows_T = rows_T.to(self.device)
        return {
            site: (len(rows_T), *_moments(ring_RD, rows_T)) for site, ring_RD in self._ring.items()
        }

    def _enter(self, number: int) -> None:
        """Hold the pool of a round, and set the model to the chunk after it."""
        for chunk in (number, number + 1):
            self._wait(chunk)
        if number < self.last_round:
            self._start(number + 2)
        halves = [self._half(number, second=True), self._half(number + 1, second=False)]
        order_T = np.concatenate(halves)
        if not len(order_T):
            raise ValueError(f"round {number} of live training has no valid token; use more text")
        generator(self._seed, "live", "round", number).shuffle(order_T)
        self._order_T = torch.from_numpy(order_T).to(self.device)
        self._round = number

    def _half(self, chunk: int, *, second: bool) -> np.ndarray:
        """Return the valid ring rows of a random half of a chunk, or of the other one."""
        order = generator(self._seed, "live", "halves", chunk).permutation(self.chunk_tokens)
        middle = self.chunk_tokens // 2
        rows = order[middle:] if second else order[:middle]
        rows = rows + self._slot(chunk).start
        return rows[self._is_valid_R[rows]]

    def _slot(self, chunk: int) -> slice:
        """Return the ring rows of a chunk."""
        start = chunk % N_CHUNKS * self.chunk_tokens
        return slice(start, start + self.chunk_tokens)

    def _wait(self, chunk: int) -> None:
        self._start(chunk)
        self._chunks[chunk].result()
        self._streams.wait_filled()

    def _start(self, chunk: int) -> None:
        """Set the model to a chunk, unless it is there or under way."""
        if chunk in self._chunks:
            return
        for old in [old for old in self._chunks if old % N_CHUNKS == chunk % N_CHUNKS]:
            self._chunks.pop(old).result()
        self._chunks[chunk] = self.fill(chunk)

    def fill(self, chunk: int) -> Future[None]:
        """Have the model fill a chunk's place in the ring, whatever is there; does not wait."""
        self._streams.mark_read()
        return self._worker.submit(self._fill, chunk)

    def _fill(self, chunk: int) -> None:
        """Run the model over the sequences of a chunk and keep what passes at the sites."""
        slot = self._slot(chunk)
        positions = []
        with self._streams.filling():
            for start in range(0, self._n_sequences, self._batch_sequences):
                n_sequences = min(self._batch_sequences, self._n_sequences - start)
                batch = self._text.read(chunk * self._n_sequences + start, n_sequences)
                self._forward(batch, slot.start + start * self._text.sequence_length)
                positions.append(batch.positions.numpy().reshape(-1))
            self._is_valid_R[slot] = self._valid(slot, np.concatenate(positions))

    @torch.inference_mode()
    def _forward(self, batch: TokenBatch, start: int) -> None:
        with self._model.record(self._ring, stop=True) as acts:
            self._model.hidden_states(batch)
        for site, ring_RD in self._ring.items():
            ring_RD[start : start + batch.token_ids.numel()].copy_(acts[site], non_blocking=True)

    def _valid(self, slot: slice, positions_T: np.ndarray) -> np.ndarray:
        """Return which rows of a chunk to train on, as stores do it in their windows (T,)."""
        is_valid_T = inside_T = positions_T > 0
        for site, norms_T in self._norms(slot).items():
            if not np.isfinite(norms_T).all():
                raise ValueError(
                    f"{site} is infinite or NaN in live training; the model overflows its dtype "
                    "or its weights are damaged: load it as bfloat16, or look at its weights"
                )
            if site.startswith("resid_") and inside_T.any():
                limit = self._norm_outlier * np.median(norms_T[inside_T])
                is_valid_T = is_valid_T & (norms_T <= limit)
        return is_valid_T

    def _norms(self, slot: slice) -> Mapping[str, np.ndarray]:
        return {
            site: torch.linalg.vector_norm(ring_RD[slot], dim=1, dtype=torch.float32).cpu().numpy()
            for site, ring_RD in self._ring.items()
        }


def _moments(ring_RD: Tensor, rows_T: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of rows in float64, in two passes over blocks of them."""
    blocks = rows_T.split(8192)
    n_rows = max(len(rows_T), 1)
    mean_D = sum(ring_RD[rows].double().sum(0) for rows in blocks) / n_rows
    variance_D = sum((ring_RD[rows].double() - mean_D).square().sum(0) for rows in blocks) / n_rows
    return mean_D, variance_D
