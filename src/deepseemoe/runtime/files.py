"""Outputs that appear whole or not at all: they grow beside their final name and are renamed."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def partial_path(path: Path) -> Path:
    """Return where `path` grows: beside it, so that the rename stays on one file system."""
    return path.with_name(path.name + ".partial")


@contextmanager
def growing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a fresh path to write a file or folder to; it becomes `path` where the block succeeds.

    What an earlier, killed attempt left behind is removed first, so both attempts end in the same
    bytes.
    """
    final = Path(path)
    partial = partial_path(final)
    remove(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    yield partial
    commit(partial, final)


def commit(partial: Path, final: Path) -> None:
    """Rename `partial` to `final`, replacing what stands there."""
    if final.is_dir() and not final.is_symlink():
        shutil.rmtree(final)
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
    """Return what a JSON file holds."""
    return json.loads(Path(path).read_text(encoding="utf-8"))
