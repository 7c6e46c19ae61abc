"""What stands in the way of Snakemake itself, and would end it with the places in its code.

Standard library only: the Snakefile asks for it.
"""

import os
from collections.abc import Iterable
from pathlib import Path

RECORDS = ("metadata", "incomplete")
"""Folders of Snakemake's notes on outputs, in .snakemake."""


def make_way(folder: Path, outputs: Iterable[Path]) -> None:
    """Remove files that stand in a run's folder where folders of outputs belong.

    Links stay, also those that lead nowhere: a disk may not be mounted.
    """
    above = {parent for output in outputs for parent in output.parents}
    for path in above - {folder}:
        if path.is_relative_to(folder) and path.is_file() and not path.is_symlink():
            path.unlink()


def drop_damaged_records(folder: Path) -> list[Path]:
    """Remove notes of Snakemake that are no text, and return them; it passes over half ones itself.

    Raises ValueError where `folder` (.snakemake) is no folder.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise ValueError(f"{folder}: no folder, where Snakemake keeps its notes; delete it")
    dropped = []
    for name in RECORDS:
        for where, _, names in os.walk(folder / name):
            for path in (Path(where, name) for name in names):
                if not _is_text(path):
                    path.unlink(missing_ok=True)
                    dropped.append(path)
    return dropped


def _is_text(path: Path) -> bool:
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError:
        return False
    except OSError:  # gone meanwhile, or for Snakemake to tell
        return True
    return True
