"""Writing a store: rows come in text order, and threads write whole windows behind the model.

Two buffers of `window_tokens` rows take turns where the model computes: while it fills one, the
other is measured there and goes to disk, its arrays in parallel. Where the disk is slower than the
model, the model waits for a free buffer. So memory is bounded. Two windows of all arrays lie where
the model computes: 3.4 GB for 32,768 rows of 52 kB (three layers of three sites, 2,880 wide). On
the host are 4 bytes a token and site, for the quantiles of norms, and with a GPU 32 MiB of pinned
memory for each thread.

The permutation of a window depends on the seed and on where the window is, never on how the rows
were batched.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from deepseemoe.activations.layout import BFLOAT16, ArraySpec
from deepseemoe.activations.rows import Rows, problems_of
from deepseemoe.activations.sink import WindowSink, check_space
from deepseemoe.activations.tensors import as_rows
from deepseemoe.activations.threads import writing_threads
from deepseemoe.activations.window import WindowBuffer
from deepseemoe.config.activations import ActivationsConfig
from deepseemoe.runtime.files import growing
from deepseemoe.runtime.seeds import generator

TOKEN_ARRAYS = tuple(ArraySpec(name, "uint32") for name in ("token_id", "doc_id", "position"))
"""What the caller gives of each token besides its activations."""

_OWN_ARRAYS = (ArraySpec("order", "uint32"), ArraySpec("is_valid", "uint8"))
_N_BUFFERS = 2


class StoreWriter:
    """Takes rows in text order until the store is full; made by `open_writer`."""

    def __init__(
        self,
        sink: WindowSink,
        arrays: Sequence[ArraySpec],
        pool: Executor,
        *,
        n_tokens: int,
        window_tokens: int,
        purpose: tuple[object, ...],
    ):
        """Write windows to `sink` on `pool`; `purpose` seeds their permutations."""
        self._sink, self._pool, self._purpose = sink, pool, purpose
        self._given = {spec.name: spec for spec in arrays}
        self._n_tokens, self._window_tokens = n_tokens, min(window_tokens, max(n_tokens, 1))
        self._n_taken = 0
        self._n_buffers = 0
        self._window: WindowBuffer | None = None
        self._writing: deque[tuple[list[Future[None]], WindowBuffer]] = deque()

    def append(self, rows: Rows) -> None:
        """Take the next rows of the text: for each array the same number, (n, …).

        Tensors may be on any device, and on a GPU they are copied in its current stream. Raises
        ValueError where arrays, shapes or types are not those of the store, and whatever went wrong
        while an earlier window was written.
        """
        self._check(rows)
        for future in (future for futures, _ in self._writing for future in futures):
            if future.done():
                future.result()  # a full disk should not wait for the window to fill
        tensors = {name: as_rows(rows[name], spec) for name, spec in self._given.items()}
        n_rows, taken = len(rows["token_id"]), 0
        while taken < n_rows:
            window = self._window = self._window or self._next_window()
            stop = min(n_rows, taken + window.n_left)
            window.put(tensors, slice(taken, stop))
            self._n_taken += stop - taken
            taken = stop
            if not window.n_left:
                self._send(window)

    def finish(self) -> None:
        """Wait for the last window, write the statistics; raise ValueError if rows are missing."""
        while self._writing:
            self._wait()
        if self._n_taken != self._n_tokens:
            raise ValueError(
                f"{self._sink.store}: {self._n_taken} rows were given, expected {self._n_tokens}"
            )
        self._sink.finish()

    def _send(self, window: WindowBuffer) -> None:
        window.close()
        futures = [self._pool.submit(task) for task in self._sink.tasks(window)]
        self._writing.append((futures, window))
        self._window = None

    def _wait(self) -> WindowBuffer:
        """Return the buffer of the earliest window that is being written, once it is free."""
        futures, window = self._writing.popleft()
        for future in futures:
            future.result()
        return window

    def _next_window(self) -> WindowBuffer:
        """Return a buffer for the window that starts here, once one is free."""
        if self._n_buffers < _N_BUFFERS:
            self._n_buffers += 1
            window = WindowBuffer((*self._given.values(), *_OWN_ARRAYS), self._window_tokens)
        else:
            window = self._wait()
        index = self._n_taken // self._window_tokens
        n_rows = min(self._window_tokens, self._n_tokens - self._n_taken)
        window.start(index, self._n_taken, generator(*self._purpose, index).permutation(n_rows))
        window.fill("order", torch.arange(self._n_taken, self._n_taken + n_rows))
        return window

    def _check(self, rows: Rows) -> None:
        """Raise ValueError with all that does not fit the store."""
        problems = problems_of(rows, self._given)
        n_rows = self._n_taken + len(next(iter(rows.values())))
        if n_rows > self._n_tokens:
            problems.append(f"{n_rows} rows, expected {self._n_tokens}")
        if problems:
            raise ValueError(f"{self._sink.store}: {'; '.join(problems)}")


@contextmanager
def open_writer(
    path: str | PathLike[str],
    arrays: Sequence[ArraySpec],
    *,
    n_tokens: int,
    config: ActivationsConfig,
    seed: int,
    split: str,
    shard: int,
    manifest: Mapping[str, Any],
) -> Iterator[StoreWriter]:
    """Yield a writer of a store with `arrays` and the token arrays; it appears as the block ends.

    The writer adds `order`, `is_valid` and the statistics. Raises OSError where the disk is too
    small, before anything is computed.
    """
    given = (*arrays, *TOKEN_ARRAYS)
    stored = (*given, *_OWN_ARRAYS)
    n_sites = sum(spec.view_dtype == BFLOAT16 for spec in arrays)
    with growing(path) as partial, writing_threads(n_sites) as pool:
        check_space(Path(path), n_tokens * sum(spec.row_bytes for spec in stored))
        sink = WindowSink(
            partial,
            stored,
            store=Path(path),
            n_tokens=n_tokens,
            window_tokens=config.window_tokens,
            chunk_tokens=config.chunk_tokens,
            norm_outlier=config.norm_outlier,
            manifest=manifest,
        )
        writer = StoreWriter(
            sink,
            given,
            pool,
            n_tokens=n_tokens,
            window_tokens=config.window_tokens,
            purpose=(seed, "permute", split, int(shard)),
        )
        yield writer
        writer.finish()
