"""The files that hold a checkpoint's weights, looked at by name before any is read.

Weights are safetensors: other files of weights are pickles, which could run code. An index names
its files; names that lead out of the folder are refused.
"""

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def check_weight_files(folder: Path) -> None:
    """Raise an error of one line where a local folder lacks weights that can be read.

    It is a FileNotFoundError where there are none, a ValueError where the index is wrong.
    """
    if (folder / _SINGLE).is_file():
        return
    index = folder / _INDEX
    if not index.is_file():
        others = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt"))
        found = f"{', '.join(others[:3])}, which are pickles" if others else "no weights"
        raise FileNotFoundError(
            f"{folder}: no {_SINGLE} or {_INDEX}; found {found}; fetch safetensors"
        )
    try:
        names = sorted({str(name) for name in _weight_map(index).values()})
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{index}: is no index of weights; fetch it again") from None
    check_names(names, index)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder}: {len(missing)} of {len(names)} files of weights are not there "
            f"({', '.join(missing[:3])}); fetch the checkpoint again"
        )


def check_names(names: Iterable[str], index: Path) -> None:
    """Raise ValueError where an index names what is no file of safetensors in its own folder."""
    for name in names:
        if PurePosixPath(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(
                f"{index}: names {name!r} as weights; expected .safetensors files beside it"
            )


def _weight_map(index: Path) -> dict[str, str]:
    return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"].items())
