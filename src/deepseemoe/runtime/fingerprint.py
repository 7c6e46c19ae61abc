"""The files that a run reads and no rule makes: named by size and time, so a change is seen.

Standard library only: the Snakefile asks for it.
"""

import glob
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path


def fingerprint(paths: Iterable[str]) -> str:
    """Return 16 digits that change where a file of `paths` (files, folders, globs) does.

    Addresses such as s3:// are taken by name alone.
    """
    rows = sorted({row for path in paths for row in _rows(path)})
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def sampled_digest(path: Path, *, n_samples: int = 64, size: int = 1 << 16) -> str:
    """Return 16 digits of a file's length and of bytes spread over it: cheap for any size.

    It tells trained weights apart, which differ everywhere; it is no checksum.
    """
    length = path.stat().st_size
    found = hashlib.sha256(str(length).encode())
    with path.open("rb") as file:
        for place in range(n_samples):
            file.seek(max(length - size, 0) * place // max(n_samples - 1, 1))
            found.update(file.read(size))
    return found.hexdigest()[:16]


def content_digest(path: Path) -> str:
    """Return 16 digits of the names and bytes of a file, or of all files of a folder."""
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            found.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    found.update(block)
    return found.hexdigest()[:16]


def name_problem(path: str) -> str | None:
    """Return why a file cannot have this name in the locale of this process; None where it can."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        return (
            f"{path} cannot be a file's name in this shell, whose encoding is {encoding}; export "
            "PYTHONUTF8=1"
        )
    return None


def _rows(path: str) -> Iterator[str]:
    if problem := name_problem(path):
        raise ValueError(problem)
    if "://" in path:
        yield path
        return
    for found in glob.glob(path, recursive=True):
        files = Path(found).rglob("*") if Path(found).is_dir() else [Path(found)]
        for file in files:
            if file.is_file():
                status = os.stat(file)
                yield f"{file} {status.st_size} {status.st_mtime_ns}"
