"""The feature shard: what fires on every token of one shard of text, kept sparse in a zarr group.

The layout is that of a CSR matrix (rows are tokens in text order), so that any zarr and scipy user
opens it without us. Compressed by zstd: shards are read once, whole, and column indices shrink by
half.

T tokens, F features, nnz activations.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from scipy import sparse
from zarr.codecs import ZstdCodec

from deepseemoe.runtime.arrays import whole_group

FORMAT = 1
KIND = "features"
CHUNK = 1 << 18
"""Entries of one zarr chunk: 1 MiB of float32, which a file system and zstd both like."""

TOKEN_ARRAYS = {
    "token_id": np.dtype(np.uint32),
    "doc_id": np.dtype(np.uint32),
    "position": np.dtype(np.uint32),
    "is_valid": np.dtype(np.uint8),
}

ARRAYS = ("offsets", "feature", "activation", *TOKEN_ARRAYS)


class FeatureShard:
    """Sparse activations of one shard; each array is read from disk where it is first used."""

    def __init__(self, group: zarr.Group, label: str):
        self._group, self.label = group, label
        self.d_dict = int(group.attrs["d_dict"])
        self.manifest: dict[str, Any] = dict(group.attrs["manifest"])
        self.n_tokens = int(group["token_id"].shape[0])
        self._checked: dict[str, zarr.Array] = {}

    @classmethod
    def open(cls, path: Path | str) -> "FeatureShard":
        """Open a shard; raise ValueError where it is none or of another format."""
        with whole_group(path):
            return cls._open(path)

    @classmethod
    def _open(cls, path: Path | str) -> "FeatureShard":
        try:
            group = zarr.open_group(str(path), mode="r")
        except FileNotFoundError:
            raise ValueError(
                f"{path}: no zarr group; expected a feature shard, made by encode_features"
            ) from None
        found = group.attrs.get("kind"), group.attrs.get("format")
        if found != (KIND, FORMAT):
            raise ValueError(
                f"{path}: kind {found[0]!r}, format {found[1]!r}; expected kind {KIND!r}, format "
                f"{FORMAT}; run encode_features again"
            )
        return cls(group, str(path))

    def ranges(self, name: str) -> Iterator[tuple[int, int]]:
        """Yield start and stop of what `read` decodes at a time, chunk by chunk."""
        n_entries = self._group[name].shape[0]
        for start in range(0, n_entries, CHUNK):
            yield start, min(start + CHUNK, n_entries)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Return entries `start` to `stop` of an array, all by default; nothing of it is kept.

        Chunks are decoded whole, so ranges that end at multiples of CHUNK decode each once. Raises
        ValueError where the array is damaged.
        """
        with whole_group(self.label):
            array = self._whole(name)
        try:
            return array[start : array.shape[0] if stop is None else stop]
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{self.label}: {name}: damaged ({error}); run encode_features again"
            ) from None

    def _whole(self, name: str) -> zarr.Array:
        """Return an array of which no chunk is missing: zarr would read one as zeros."""
        if name not in self._checked:
            array = self._group[name]
            if array.nchunks_initialized != array.nchunks:
                raise ValueError(
                    f"{self.label}: {name}: parts of it are missing; run encode_features again"
                )
            self._checked[name] = array
        return self._checked[name]

    @cached_property
    def offsets(self) -> npt.NDArray[np.uint64]:
        """(T + 1,): the activations of token t are entries `offsets[t]` to `offsets[t + 1]`."""
        return self.read("offsets")

    @property
    def n_active(self) -> int:
        """How many activations it holds."""
        with whole_group(self.label):
            return int(self._group["activation"].shape[0])

    @cached_property
    def features(self) -> npt.NDArray[np.unsignedinteger]:
        """(nnz,): the features that fire, rising within a token."""
        return self.read("feature")

    @cached_property
    def values(self) -> npt.NDArray[np.float32]:
        """(nnz,): activations in raw units of z."""
        return self.read("activation")

    @cached_property
    def token_ids(self) -> npt.NDArray[np.uint32]:
        """(T,): the text."""
        return self.read("token_id")

    @cached_property
    def doc_ids(self) -> npt.NDArray[np.uint32]:
        """(T,): the document of each token."""
        return self.read("doc_id")

    @cached_property
    def positions(self) -> npt.NDArray[np.uint32]:
        """(T,): position in the segment; 0 opens one."""
        return self.read("position")

    @cached_property
    def is_valid(self) -> npt.NDArray[np.bool_]:
        """(T,): false on rows that carry no activations because they were not encoded."""
        return self.read("is_valid").astype(bool)

    def matrix(self) -> sparse.csr_array:
        """Return the activations as a (T, F) matrix; it shares memory with `values`."""
        parts = self.values, self.features.astype(np.int32), self.offsets.astype(np.int64)
        return sparse.csr_array(parts, shape=(self.n_tokens, self.d_dict))


class FeatureWriter:
    """Write a feature shard run by run of tokens; the caller makes it whole by `growing`."""

    def __init__(self, path: Path | str, *, d_dict: int, manifest: Mapping[str, Any]):
        attributes = {"format": FORMAT, "kind": KIND, "d_dict": d_dict, "manifest": dict(manifest)}
        self._group = zarr.create_group(str(path), zarr_format=3, attributes=attributes)
        self._d_dict = d_dict
        self._n_entries = 0
        # Kept, since an array that is opened again no longer knows to write chunks of zeros.
        self._arrays: dict[str, zarr.Array] = {}
        smallest = np.uint16 if d_dict <= 1 << 16 else np.uint32
        self._create("feature", np.dtype(smallest))
        self._create("activation", np.dtype(np.float32))
        self._create("offsets", np.dtype(np.uint64))
        self._extend("offsets", np.zeros(1, np.uint64))
        for name, dtype in TOKEN_ARRAYS.items():
            self._create(name, dtype)

    def _create(self, name: str, dtype: np.dtype[Any]) -> None:
        self._arrays[name] = self._group.create_array(
            name,
            shape=(0,),
            chunks=(CHUNK,),
            dtype=dtype,
            compressors=ZstdCodec(level=3, checksum=True),
            config={"write_empty_chunks": True},  # a missing chunk must mean damage
        )

    def append(self, matrix: sparse.csr_array, tokens: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add a run of tokens: `matrix` (n, F) and (n,) arrays `token_id doc_id position is_valid`.

        Entries that are exactly 0 are not stored, and features rise within a token. Raises
        ValueError where the sizes differ or an invalid token has activations.
        """
        lengths = {name: len(tokens[name]) for name in TOKEN_ARRAYS}
        if matrix.shape[1] != self._d_dict or set(lengths.values()) != {matrix.shape[0]}:
            raise ValueError(
                f"activations {matrix.shape} with token arrays {lengths}; expected equally many "
                f"rows and {self._d_dict} features"
            )
        matrix = sparse.csr_array(matrix, copy=True)  # tidied below; the caller keeps its own
        matrix.eliminate_zeros()
        matrix.sort_indices()
        if np.diff(matrix.indptr)[np.asarray(tokens["is_valid"]) == 0].any():
            raise ValueError("tokens that are not valid have activations; leave their rows empty")
        self._extend("feature", matrix.indices)
        self._extend("activation", matrix.data)
        self._extend("offsets", matrix.indptr[1:].astype(np.uint64) + np.uint64(self._n_entries))
        self._n_entries += matrix.nnz
        for name in TOKEN_ARRAYS:
            self._extend(name, tokens[name])

    def _extend(self, name: str, values: npt.NDArray[Any]) -> None:
        array = self._arrays[name]
        array.append(np.asarray(values).astype(array.dtype, copy=False))
