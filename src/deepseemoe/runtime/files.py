"""Outputs that appear whole or not at all: they grow beside their final name and are renamed."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_MAKE_ROOM = "make room and run again, what was finished is kept"
_DISK = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: "the file system or a limit (ulimit -f) allows no larger file; raise it",
    errno.EROFS: "mount it writable, or name another folder at pathvars.results",
    errno.EACCES: "make it writable, or name another folder at pathvars.results",
    errno.EIO: "look at the disk (dmesg), then run again",
}
"""What the system says of a disk that cannot be written, and what to do."""

REMAKE = "delete it and run again, which makes it anew"


def partial_path(path: Path) -> Path:
    """Return where `path` grows: beside it, so that the rename stays on one file system."""
    return path.with_name(path.name + ".partial")


@contextmanager
def growing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a fresh path to write a file or folder to; it becomes `path` where the block succeeds.

    What an earlier, killed attempt left behind is removed first, so both attempts end in the same
    bytes. Raises OSError in one line where the disk is full or cannot be written; what was written
    until then is removed, since it takes the room of others.
    """
    final = Path(path)
    partial = partial_path(final)
    try:
        remove(partial)
        partial.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        commit(partial, final)
    except Exception as error:
        told = disk_problem(error, partial.parent)
        if told is None:
            raise
        with suppress(OSError):
            remove(partial)
        if str(final) in str(error):  # who wrote has told it better
            raise
        raise OSError(f"{final}: {told}") from error


def disk_problem(error: BaseException | None, folder: Path) -> str | None:
    """Return what is wrong with the disk of `folder` where an error says so, and what to do.

    None for other errors, and for files that stand elsewhere. Arrow and safetensors tell the
    system's reason as text alone, and the one that zarr raises may stand behind another.
    """
    while error is not None:
        named = getattr(error, "filename", None)
        if isinstance(named, str) and not Path(named).is_relative_to(folder):
            return None
        for number, advice in _DISK.items():
            is_it = isinstance(error, OSError) and error.errno == number
            if is_it or os.strerror(number) in str(error):
                return f"{os.strerror(number)}; {advice}"
        error = error.__cause__ or error.__context__
    return None


def commit(partial: Path, final: Path) -> None:
    """Rename `partial` to `final`, replacing what stands there."""
    if final.is_dir() or partial.is_dir():
        remove(final)
    os.replace(partial, final)


def remove(path: Path) -> None:
    """Remove a file or a folder; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with growing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON with keys in the given order, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return what a JSON file holds; raise ValueError where it is damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # also of letters that are none
        raise ValueError(f"{path}: damaged, no whole JSON ({error}); {REMAKE}") from None
