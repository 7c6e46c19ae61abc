"""Checksums of what stages write, looked at before another stage reads it.

Chunks of zarr arrays carry checksums of their own, and are checked as they are read. Parquet,
safetensors, JSON and the metadata of zarr carry none, and a flipped bit in them may well be another
number. So a stage leaves size and crc32c of each such file in `<results>/{run}/.checksums/`, beside
no output and in none, and the next stage compares. That costs one more look at a file that is about
to be read anyway, at some GB/s. Files without a checksum (older runs, runs of others) pass.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import google_crc32c

from deepseemoe.runtime.files import remove, write_text

FOLDER = ".checksums"
_BLOCK = 1 << 23
_CHUNKS = "c"
"""The folder of an array's chunks, in zarr v3."""

State = list[int | str]
"""Size and crc32c of a file, as JSON holds them."""


def write(folder: Path, outputs: Iterable[Path]) -> None:
    """Note the checksums of files and folders that belong to the run in `folder`."""
    for output in outputs:
        states = {name: _state(path) for name, path in _files(output)}
        write_text(_path(folder, output), json.dumps(states, indent=0) + "\n")


def forget(folder: Path, outputs: Iterable[Path]) -> None:
    """Remove the checksums of what is about to be made anew."""
    for output in outputs:
        path = _path(folder, output)
        for above in path.relative_to(folder).parents:
            if (folder / above).is_file():  # where a folder of lists belongs
                remove(folder / above)
        remove(path)


def check(folder: Path, inputs: Iterable[Path]) -> None:
    """Raise ValueError, in one line, where a file of the run in `folder` is not as it was written.

    `inputs` outside the folder, and those without a checksum, pass.
    """
    problems = [problem for path in inputs for problem in _problems(folder, path)]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(f"{problems[0]}{more}")


def outputs(folder: Path) -> list[Path]:
    """Return the outputs of the run in `folder` that have checksums, there or not."""
    lists = folder / FOLDER
    names = (str(path.relative_to(lists)) for path in sorted(lists.rglob("*.json")))
    return [folder / name.removesuffix(".json") for name in names]


def _problems(folder: Path, output: Path) -> Iterator[str]:
    path = _path(folder, output)
    if not output.is_relative_to(folder) or not path.is_file():
        return
    states = _listed(path)
    if states is None:
        yield f"{path}: a damaged list of checksums; delete it, and what it is about if in doubt"
        return
    for name, state in states.items():
        file = output / name if name else output
        told = _difference(file, state)
        if told:
            yield f"{file}: damaged, {told}; delete {output} and run again, which makes it anew"


def _listed(path: Path) -> Mapping[str, State] | None:
    """Return what a list of checksums says; None where it is not as `write` makes them."""
    try:
        states = json.loads(path.read_text(encoding="utf-8"))
        whole = all([type(size), type(value)] == [int, str] for size, value in states.values())
    except (ValueError, TypeError, AttributeError):
        return None
    return states if whole else None


def _difference(file: Path, state: State) -> str | None:
    """Return in what a file differs from what was written; None where it does not."""
    size, value = state
    if not file.is_file():
        return "it is no file" if file.exists() else "it is missing"
    found = file.stat().st_size
    if found != size:
        return f"{found} bytes where {size} were written"
    return None if _crc(file) == value else "its checksum is not that of what was written"


def _files(output: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of an output that have no checksum of their own, and their names in it."""
    if output.is_file():
        yield "", output
        return
    for where, folders, names in os.walk(output):
        is_array = "zarr.json" in names
        folders[:] = sorted(name for name in folders if not (is_array and name == _CHUNKS))
        for name in sorted(names):
            path = Path(where, name)
            yield str(path.relative_to(output)), path


def _state(path: Path) -> State:
    return [path.stat().st_size, _crc(path)]


def _crc(path: Path) -> str:
    value = 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            value = google_crc32c.extend(value, block)
    return f"{value:08x}"


def _path(folder: Path, output: Path) -> Path:
    """Return where the checksums of an output are."""
    return folder / FOLDER / f"{os.path.relpath(output, folder)}.json"
