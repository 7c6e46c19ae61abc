"""The activation store of one shard of the corpus: its arrays, and how its rows lie in the text."""

import json
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepseemoe.activations.layout import FORMAT, KIND, read_metadata
from deepseemoe.activations.reader import MappedArray
from deepseemoe.names import HOOK_POINTS, Site
from deepseemoe.runtime.arrays import whole_group


class Statistics(NamedTuple):
    """Mean and population variance of a site's channels over its valid rows; zeros without any."""

    n_valid: int
    mean_D: NDArray[np.float32]
    variance_D: NDArray[np.float32]


class ActivationStore:
    """A store, open for reading; `store["resid_post/L08"]` is a `MappedArray`.

    Row i is the same token in every array. Raises ValueError, in one line, where `path` is no
    activation store of this format, or where an array that is asked for is not in it.
    """

    def __init__(self, path: str | PathLike[str]):
        """Check format and kind, and list the arrays; no data is read."""
        self.path = Path(path)
        with whole_group(self.path):
            attributes = _checked_attributes(self.path)
            self.manifest: dict[str, Any] = attributes["manifest"]
            self._names = tuple(_array_names(self.path))
        self._arrays: dict[str, MappedArray] = {}
        self.n_tokens: int = len(self["token_id"])

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> MappedArray:
        if name not in self._arrays:
            if name not in self._names:
                held = ", ".join(self._names)
                raise ValueError(f"{self.path}: no array {name!r}; the store holds {held}")
            with whole_group(self.path):
                self._arrays[name] = MappedArray(self.path / name, f"{self.path}: {name}")
        return self._arrays[name]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all arrays."""
        return self._names

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """The sites with activations, by layer and in the order of a forward pass."""
        heads = tuple(f"{point}/" for point in HOOK_POINTS)
        found = [Site.parse(name) for name in self._names if name.startswith(heads)]
        found.sort(key=lambda site: (site.layer, HOOK_POINTS.index(site.hook_point)))
        return tuple(map(str, found))

    def floats(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows start … stop−1 of an array as float32, (n, D) for a site."""
        return self[name].floats(start, stop)

    def valid_rows(self) -> NDArray[np.bool_]:
        """Return which rows to train on (T,): not at position 0, and not of outlying norm."""
        return self["is_valid"].whole().astype(bool)

    def text_order(self) -> NDArray[np.int64]:
        """Return the row of each place in the text (T,); `gather` of a slice of it is a text."""
        places = self["order"].whole()
        rows = np.full(self.n_tokens, -1, np.int64)
        if self.n_tokens and places.max() < self.n_tokens:
            rows[places] = np.arange(self.n_tokens)
        if (rows < 0).any():
            raise ValueError(f"{self.path}: order is no permutation of {self.n_tokens} places")
        return rows

    def statistics(self, site: str) -> Statistics:
        """Return mean and variance of a site's channels over valid rows."""
        mean_D, variance_D = self[f"statistics/{site}"].whole()
        return Statistics(int(self[site].attributes["n_valid"]), mean_D, variance_D)


def _checked_attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of the group at `path`; raise ValueError where it is no store."""
    try:
        metadata = read_metadata(path)
    except (OSError, json.JSONDecodeError) as error:
        problem = "no zarr group" if path.exists() else "nothing is there"
        raise ValueError(
            f"{path}: not an activation store, {problem} ({error}); run cache_activations"
        ) from None
    attributes = metadata.get("attributes", {})
    if attributes.get("kind") != KIND:
        raise ValueError(
            f"{path}: kind {attributes.get('kind')!r}, expected {KIND!r}; give the path of a store "
            f"that cache_activations wrote"
        )
    if attributes.get("format") != FORMAT:
        raise ValueError(
            f"{path}: activation store format {attributes.get('format')}, expected {FORMAT}; run "
            f"cache_activations again or read it with the deepseemoe that wrote it"
        )
    return attributes


def _array_names(group: Path, prefix: str = "") -> list[str]:
    """Return the names of all arrays below a group; the many folders of shards are not entered."""
    found = []
    for child in sorted(group.iterdir()):
        if (child / "zarr.json").is_file():
            name = prefix + child.name
            is_array = read_metadata(child)["node_type"] == "array"
            found += [name] if is_array else _array_names(child, f"{name}/")
    return found
