"""Reading and writing the activation store, against a plain file and against other readers.

Data: 65,536 rows of 1,024 bfloat16 (134 MB) in windows of 32,768 rows and chunks of 256, as the
workflow writes them; cases that end in `c1024` have chunks of 1,024. All values are MB/s of
payload, medians over rounds: `ours` is `MappedArray.read` and the shard writer, `floor` is
`np.memmap` with a copy, or `np.save`. Every reader returns an array of its own, none a view.

- read block: 1,024 rows from random starts, page cache warm, chunks checked in the warm-up round.
- read run: 32 rows from random starts, the same.
- read first: read block with a fresh reader, so every chunk is checksummed once (memmap has none).
- read cold: each block of 1,024 rows once, in random order, from files that were evicted from the
  page cache (and unmapped before, or the pages would stay); opening the files and checksums count.
- write: one array from memory into the page cache (no fsync), metadata and checksums included.

Peers read what is theirs to read: zarr-python and tensorstore our very files, and `datasets` an
Arrow table of float32 contexts of 128 tokens, as SAELens keeps activations.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from timing import FLOOR, OURS, Case, compete, main

from deepseemoe.activations.bfloat16 import narrow, widen
from deepseemoe.activations.layout import ArraySpec, create_array, create_group
from deepseemoe.activations.reader import MappedArray
from deepseemoe.activations.shard_format import write_shard

N_ROWS, WIDTH, WINDOW, CHUNK = 65_536, 1_024, 32_768, 256
MB = N_ROWS * WIDTH * 2 / 1e6
BLOCK, N_BLOCKS = 1_024, 64
RUN, N_RUNS = 32, 512
CONTEXT = 128
SPEC = ArraySpec("x", "uint16", WIDTH, "bfloat16")

Read = Callable[[int, int], Any]
Open = Callable[[], Read]


def cases(rounds: int) -> list[Case]:
    """Return all cases, measured in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name), planted_rows()
        written = write_cases(folder, rows, rounds)
        readers = openers(folder)
        result = [*read_cases(folder, readers, "", rounds), written]
        wide = {OURS: partial(open_ours, folder / "c1024"), FLOOR: readers[FLOOR]}
        write_ours(folder / "c1024", rows, chunk_rows=1_024)
        return [*result, *read_cases(folder, wide, " c1024", rounds)]


def planted_rows() -> NDArray[np.uint16]:
    """Return normal random rows as bits of bfloat16."""
    rng = np.random.default_rng(0)
    return narrow(rng.standard_normal((N_ROWS, WIDTH), np.float32))


# Writing ------------------------------------------------------------------------------------


def write_ours(path: Path, rows: NDArray[np.uint16], *, chunk_rows: int = CHUNK) -> None:
    """Write metadata and shards as the store's writer does."""
    create_group(path, {})
    create_array(path, SPEC, n_rows=N_ROWS, shard_rows=WINDOW, chunk_rows=chunk_rows)
    for shard, start in enumerate(range(0, N_ROWS, WINDOW)):
        part = rows[start : start + WINDOW]
        write_shard(path / "x", shard, part, shard_rows=WINDOW, chunk_rows=chunk_rows)


def write_zarr(path: Path, rows: NDArray[np.uint16]) -> None:
    """Write the same files with zarr-python, a window at a time."""
    create_group(path, {})
    create_array(path, SPEC, n_rows=N_ROWS, shard_rows=WINDOW, chunk_rows=CHUNK)
    array = zarr.open_array(path / "x", mode="r+")
    for start in range(0, N_ROWS, WINDOW):
        array[start : start + WINDOW] = rows[start : start + WINDOW]


def write_arrow(path: Path, rows: NDArray[np.uint16]) -> None:
    """Write the rows as float32 contexts with `datasets`."""
    datasets = import_module("datasets")
    shape = (CONTEXT, WIDTH)
    features = datasets.Features({"x": datasets.Array2D(shape, "float32")})
    contexts = widen(rows).reshape(-1, *shape)
    table = datasets.Dataset.from_dict({"x": contexts}, features=features)
    table.save_to_disk(path)


def write_cases(folder: Path, rows: NDArray[np.uint16], rounds: int) -> Case:
    """Time the writers; what they wrote last stays for the readers."""
    writers = {
        OURS: partial(write_ours, folder / OURS, rows),
        FLOOR: partial(np.save, folder / "floor.npy", rows),
        "zarr": partial(write_zarr, folder / "zarr", rows),
    }
    if is_importable("datasets"):
        import_module("datasets").disable_progress_bars()
        writers["datasets"] = partial(write_arrow, folder / "arrow", rows)

    def remove(name: str) -> None:
        path = folder / {FLOOR: "floor.npy", "datasets": "arrow"}.get(name, name)
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)

    seconds = compete(writers, rounds=rounds, before=remove)
    return Case("write", seconds, "MB/s", MB)


# Reading ------------------------------------------------------------------------------------


def open_ours(path: Path) -> Read:
    """Open an array of our store."""
    return MappedArray(path / "x", str(path)).read


def open_memmap(path: Path) -> Read:
    """Open a `.npy` file as a memory map."""
    rows = np.load(path, mmap_mode="r")
    return lambda start, stop: np.array(rows[start:stop])


def open_zarr(path: Path) -> Read:
    """Open an array of our store with zarr-python."""
    rows = zarr.open_array(path / "x", mode="r")
    return lambda start, stop: rows[start:stop]


def open_tensorstore(path: Path) -> Read:
    """Open an array of our store with tensorstore."""
    place = {"driver": "file", "path": f"{path / 'x'}/"}
    rows = import_module("tensorstore").open({"driver": "zarr3", "kvstore": place}).result()
    return lambda start, stop: rows[start:stop].read().result()


def open_arrow(path: Path) -> Read:
    """Open float32 contexts with `datasets`; a read returns the rows of whole contexts, cut."""
    rows = import_module("datasets").load_from_disk(str(path)).with_format("numpy")

    def read(start: int, stop: int) -> NDArray[np.float32]:
        first, last = start // CONTEXT, -(-stop // CONTEXT)
        flat = rows[first:last]["x"].reshape(-1, WIDTH)
        return flat[start - first * CONTEXT : stop - first * CONTEXT]

    return read


def openers(folder: Path) -> dict[str, Open]:
    """Return how each contestant opens its files; say which peers are left out."""
    found: dict[str, Open] = {
        OURS: partial(open_ours, folder / OURS),
        FLOOR: partial(open_memmap, folder / "floor.npy"),
        "zarr": partial(open_zarr, folder / OURS),
    }
    if is_importable("tensorstore"):
        found["tensorstore"] = partial(open_tensorstore, folder / OURS)
    if is_importable("datasets"):
        found["datasets"] = partial(open_arrow, folder / "arrow")
    return found


def read_cases(folder: Path, openers: Mapping[str, Open], suffix: str, rounds: int) -> list[Case]:
    """Time blocks and runs from the page cache, first reads, and blocks from the disk."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, N_ROWS - BLOCK, N_BLOCKS).tolist()
    runs = rng.integers(0, N_ROWS - RUN, N_RUNS).tolist()
    each_block = (rng.permutation(N_ROWS // BLOCK) * BLOCK).tolist()
    fresh = {
        name: partial(open_and_read_all, open_, each_block, BLOCK)
        for name, open_ in openers.items()
    }
    cold = compete(fresh, rounds=rounds, before=lambda _: evict(folder))
    first = compete(fresh, rounds=rounds)
    return [
        warm_case("read block" + suffix, openers, blocks, BLOCK, rounds),
        warm_case("read run" + suffix, openers, runs, RUN, rounds),
        Case("read first" + suffix, first, "MB/s", MB),
        Case("read cold" + suffix, cold, "MB/s", MB),
    ]


def warm_case(
    name: str, openers: Mapping[str, Open], starts: Sequence[int], size: int, rounds: int
) -> Case:
    """Time reads of files that are open and in the page cache."""
    passes = {who: partial(read_all, open_(), starts, size) for who, open_ in openers.items()}
    amount = len(starts) * size * WIDTH * 2 / 1e6
    return Case(name, compete(passes, rounds=rounds), "MB/s", amount)


def read_all(read: Read, starts: Iterable[int], size: int) -> None:
    """Read `size` rows from each start."""
    for start in starts:
        read(start, start + size)


def open_and_read_all(open_: Open, starts: Iterable[int], size: int) -> None:
    """Open the files and read `size` rows from each start."""
    read_all(open_(), starts, size)


def evict(folder: Path) -> None:
    """Drop all files below `folder` from the page cache, once they are on disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def is_importable(name: str) -> bool:
    """Return whether a peer is there; say so where it is not."""
    found = find_spec(name) is not None
    if not found:
        print(f"{name}: left out, not installed")
    return found


if __name__ == "__main__":
    main(cases, __doc__)
