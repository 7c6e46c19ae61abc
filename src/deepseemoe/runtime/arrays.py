"""Errors of damaged zarr groups, told by the name of the group."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepseemoe.runtime.files import REMAKE


@contextmanager
def whole_group(path: Path | str) -> Iterator[None]:
    """Raise ValueError with the name of a group where what zarr reads of it makes no sense.

    zarr and json tell of damaged metadata by errors of many kinds, none of which names the file.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        if str(path) in str(error):
            raise
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ValueError(f"{path}: damaged ({told}); {REMAKE}") from None
