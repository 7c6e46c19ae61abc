"""The files that a run reads and no rule makes: named by size and time, so a change is seen.

Standard library only: the Snakefile asks for it.
"""

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def fingerprint(paths: Iterable[str]) -> str:
    """Return 16 digits that change where a file of `paths` (files, folders, globs) does.

    Addresses such as s3:// are taken by name alone.
    """
    rows = sorted({row for path in paths for row in _rows(path)})
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def _rows(path: str) -> Iterator[str]:
    if "://" in path:
        yield path
        return
    for found in glob.glob(path, recursive=True):
        files = Path(found).rglob("*") if Path(found).is_dir() else [Path(found)]
        for file in files:
            if file.is_file():
                status = os.stat(file)
                yield f"{file} {status.st_size} {status.st_mtime_ns}"
