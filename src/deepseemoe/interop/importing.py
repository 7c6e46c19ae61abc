"""One import: a published dictionary in, the files of a dictionary out, as training leaves them."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from deepseemoe.dictionary.dictionary import Dictionary
from deepseemoe.interop import dictionary_learning, saelens
from deepseemoe.interop.sites import check_sites
from deepseemoe.names import Window

READERS: dict[str, ModuleType] = {"saelens": saelens, "dictionary_learning": dictionary_learning}
"""Modules with `read`, `sizes` and `hook_names` of each format."""


def read_dictionary(
    source: Path, *, format: str, window: Window, k: int | None = None
) -> Dictionary:
    """Return a dictionary of another tool as a crosscoder on `window`, which is a plain SAE.

    It reads and writes raw resid_post. `k` stands where the file does not say one. Raises
    ValueError, in one line, where the file is not of the format, is damaged or incomplete, reads
    something else, or does what a dictionary here cannot.
    """
    return _reader(format).read(source).dictionary(window, k=k)


def import_dictionary(
    source: Path,
    *,
    format: str,
    window: Window,
    folder: Path,
    d_model: int | None = None,
    d_dict: int | None = None,
    k: int | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Dictionary:
    """Write a dictionary of another tool to `folder`, as training leaves its own, and return it.

    `d_model` and `d_dict` are what it must have, `k` is what the file must say where it says one.
    Raises ValueError where not, besides what `read_dictionary` raises.
    """
    found = read_dictionary(source, format=format, window=window, k=k)
    for key, wanted in (("d_model", d_model), ("d_dict", d_dict), ("k", k)):
        if wanted is not None and getattr(found, key) != wanted:
            raise ValueError(
                f"{source}: {key} is {getattr(found, key)}, and the configuration says {wanted}; "
                "write down what the file has, or name another"
            )
    made_of = {"imported": {"format": format, "name": source.name}}
    found.save(folder, manifest={**(manifest or {}), **made_of})
    return found


def import_problem(
    source: Path, *, format: str, window: Window, d_model: int | None, d_dict: int | None
) -> str | None:
    """Return why a dictionary cannot be imported as wanted, as far as headers tell, or None."""
    reader = _reader(format)
    try:
        if names := reader.hook_names(source):
            check_sites(str(source), names, window)
        width, n_features = reader.sizes(source)
    except (ValueError, OSError) as error:
        return str(error)
    if d_model is not None and width != d_model * len(window.layers):
        return f"{source}: made for a d_model of {width}, and the model has {d_model}"
    if d_dict is not None and n_features != d_dict:
        return f"{source}: has {n_features} features, and d_dict is {d_dict}; write {n_features}"
    return None


def _reader(format: str) -> ModuleType:
    if format not in READERS:
        raise ValueError(f"format {format!r}; expected one of {', '.join(READERS)}")
    return READERS[format]
