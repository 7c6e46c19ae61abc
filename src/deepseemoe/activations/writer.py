"""Writing a store: rows come in text order, and a second thread writes whole windows.

Two buffers of `window_tokens` rows take turns, so the model computes the next window while the last
one goes to disk; memory is two windows of all arrays. The permutation of a window depends on the
seed and on where the window is, never on how the rows were batched.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseemoe.activations.layout import ArraySpec
from deepseemoe.activations.sink import WindowSink, check_space
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
        pool: ThreadPoolExecutor,
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
        self._writing: deque[tuple[Future[None], WindowBuffer]] = deque()

    def append(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Take the next rows of the text: for each array the same number, (n, …).

        Raises ValueError where arrays, shapes or types are not those of the store, and whatever
        went wrong while an earlier window was written.
        """
        n_rows = self._checked(rows)
        for future, _ in self._writing:
            if future.done():
                future.result()  # a full disk should not wait for the window to fill
        taken = 0
        while taken < n_rows:
            window = self._window = self._window or self._next_window()
            stop = min(n_rows, taken + window.n_left)
            window.put(rows, slice(taken, stop))
            self._n_taken += stop - taken
            taken = stop
            if not window.n_left:
                self._writing.append((self._pool.submit(self._sink.write, window), window))
                self._window = None

    def finish(self) -> None:
        """Wait for the last window, write the statistics; raise ValueError if rows are missing."""
        for future, _ in self._writing:
            future.result()
        if self._n_taken != self._n_tokens:
            raise ValueError(
                f"{self._sink.store}: {self._n_taken} rows were given, expected {self._n_tokens}"
            )
        self._sink.finish()

    def _next_window(self) -> WindowBuffer:
        """Return a buffer for the window that starts here, once one is free."""
        if self._n_buffers < _N_BUFFERS:
            self._n_buffers += 1
            window = WindowBuffer((*self._given.values(), *_OWN_ARRAYS), self._window_tokens)
        else:
            future, window = self._writing.popleft()
            future.result()
        index = self._n_taken // self._window_tokens
        n_rows = min(self._window_tokens, self._n_tokens - self._n_taken)
        window.start(index, self._n_taken, generator(*self._purpose, index).permutation(n_rows))
        return window

    def _checked(self, rows: Mapping[str, NDArray[Any]]) -> int:
        """Return the number of rows; raise ValueError with all that does not fit the store."""
        odd = sorted(rows.keys() ^ self._given.keys())
        if odd:
            raise ValueError(
                f"{self._sink.store}: arrays {odd} are not both given and in the store"
            )
        n_rows = len(next(iter(rows.values())))
        problems = []
        for name, spec in self._given.items():
            found = (rows[name].dtype, rows[name].shape)
            expected = (np.dtype(spec.dtype), (n_rows, *spec.row_shape))
            if found != expected:
                problems.append("{} is {} {}, expected {} {}".format(name, *found, *expected))
        if self._n_taken + n_rows > self._n_tokens:
            problems.append(f"{self._n_taken + n_rows} rows, expected {self._n_tokens}")
        if problems:
            raise ValueError(f"{self._sink.store}: {'; '.join(problems)}")
        return n_rows


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
    with growing(path) as partial, ThreadPoolExecutor(1, "store-writer") as pool:
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
