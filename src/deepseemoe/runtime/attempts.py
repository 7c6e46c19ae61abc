"""Several outputs of one job that appear one by one, so that a killed attempt costs the last one.

They grow in a folder of their own. What each is made from is written beside it before it is begun:
another attempt keeps those that it would make itself, and removes all else.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from deepseemoe.runtime.files import commit, read_json, remove, write_json

RECORD = "made_from.json"
"""Beside the outputs: for each of them, a digest of what it is made from."""

GROWING = ".growing-"
"""Begins the names of folders in which outputs grow, beside where they will be."""


def left_to_make(folder: Path, wanted: Mapping[str, str]) -> set[str]:
    """Return which of `wanted` (names, and digests of what they are made from) are to be made.

    What is none of them is removed from `folder`. The record names nothing while it is removed:
    half of it would pass for whole. An output must appear by a rename.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = _record_of(folder)
    kept = {name for name in wanted if found.get(name) == wanted[name] and (folder / name).is_dir()}
    write_json(folder / RECORD, {name: wanted[name] for name in sorted(kept)})
    for path in folder.iterdir():
        if path.name not in {*kept, RECORD}:
            remove(path)
    write_json(folder / RECORD, wanted)
    return set(wanted) - kept


def growing_folder(outputs: Sequence[Path]) -> Path:
    """Return where neighbouring outputs of one folder grow; folders in which one would are removed.

    Those were left by an attempt that made other outputs together.
    """
    first, last = outputs[0], outputs[-1]
    name = f"{GROWING}{first.stem}-{last.stem}"
    for other in first.parent.glob(f"{GROWING}*-*"):
        start, _, stop = other.name.removeprefix(GROWING).partition("-")
        if other.name != name and start <= last.stem and first.stem <= stop:
            _take_away(other)
    return first.with_name(name)


def _take_away(folder: Path) -> None:
    """Remove a folder that another job may be removing at the same time."""
    while folder.exists():
        with suppress(FileNotFoundError):  # the other was faster
            remove(folder)


def settle(folder: Path, outputs: Sequence[Path]) -> None:
    """Rename what grew in `folder` to `outputs`, of the same names, and remove the folder."""
    for output in outputs:
        commit(folder / output.name, output)
    remove(folder)


def _record_of(folder: Path) -> Mapping[str, str]:
    """Return the digests of an earlier attempt; none where there was none or it cannot be read."""
    try:
        found = read_json(folder / RECORD)
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
