"""The arrays of a store as zarr v3 metadata: zarr itself writes it, so any zarr tool reads a store.

Chunks are not compressed: bf16 activations shrink by a quarter at best, and raw chunks can be
mapped into memory. Each carries its crc32c.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT = 1
KIND = "activations"
BFLOAT16 = "bfloat16"


class ArraySpec(NamedTuple):
    """One array of a store: `[T]` where `width` is None, else `[T, width]`.

    `view_dtype` names the type that the stored integers stand for, where they stand for another.
    """

    name: str
    dtype: str
    width: int | None = None
    view_dtype: str | None = None

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return () if self.width is None else (self.width,)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return np.dtype(self.dtype).itemsize * (self.width or 1)


class Layout(NamedTuple):
    """What a reader needs of an array's metadata."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill_value: Any
    chunk_rows: int
    chunks_per_shard: int
    index_first: bool
    attributes: Mapping[str, Any]


def create_group(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make an empty zarr group that carries the format, the kind and the manifest of a store."""
    import zarr  # slow to import, and readers of our own layout do without it

    attributes = {"format": FORMAT, "kind": KIND, "manifest": dict(manifest)}
    zarr.open_group(folder, mode="w", zarr_format=3, attributes=attributes)


def create_array(
    folder: Path,
    spec: ArraySpec,
    *,
    n_rows: int,
    shard_rows: int,
    chunk_rows: int,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write the metadata of an array of the group at `folder`, whose shards may be there already.

    `attributes` come besides `view_dtype`.
    """
    text = _array_metadata(spec.dtype, spec.row_shape, n_rows, shard_rows, chunk_rows)
    view = {"view_dtype": spec.view_dtype} if spec.view_dtype else {}
    metadata = {**json.loads(text), "attributes": {**view, **(attributes or {})}}
    for group in list(Path(spec.name).parents)[:-1]:
        _write_metadata(folder / group, json.loads(_group_metadata()))
    _write_metadata(folder / spec.name, metadata)


@cache
def _array_metadata(
    dtype: str, row_shape: tuple[int, ...], n_rows: int, shard_rows: int, chunk_rows: int
) -> str:
    """Return the `zarr.json` that zarr writes for such an array.

    A store has many arrays of few kinds, and zarr takes 10 ms for each file.
    """
    import zarr
    from zarr.codecs import BytesCodec, Crc32cCodec

    files: dict[str, Any] = {}
    zarr.create_array(
        zarr.storage.MemoryStore(files),
        shape=(n_rows, *row_shape),
        shards=(shard_rows, *row_shape),
        chunks=(chunk_rows, *row_shape),
        dtype=dtype,
        filters=None,
        serializer=BytesCodec(),
        compressors=[Crc32cCodec()],
        fill_value=0,
        zarr_format=3,
    )
    return files["zarr.json"].to_bytes().decode()


@cache
def _group_metadata() -> str:
    """Return the `zarr.json` that zarr writes for a group without attributes."""
    import zarr

    files: dict[str, Any] = {}
    zarr.create_group(zarr.storage.MemoryStore(files), zarr_format=3)
    return files["zarr.json"].to_bytes().decode()


def _write_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write a `zarr.json` as zarr does."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(metadata, indent=2, allow_nan=True)
    (folder / "zarr.json").write_text(text, encoding="utf-8")


def read_layout(metadata: Mapping[str, Any]) -> Layout | None:
    """Return the layout in an array's `zarr.json`; None where the codecs are not ours."""
    codecs = metadata["codecs"]
    if [codec["name"] for codec in codecs] != ["sharding_indexed"]:
        return None
    sharding = codecs[0]["configuration"]
    shape = tuple(metadata["shape"])
    shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    chunk = sharding["chunk_shape"]
    keys = metadata["chunk_key_encoding"]
    plain_keys = keys == {"name": "default", "configuration": {"separator": "/"}}
    codecs_are_ours = _are_ours(sharding["codecs"]) and _are_ours(sharding["index_codecs"])
    rows_are_whole = tuple(chunk[1:]) == tuple(shard[1:]) == shape[1:]
    is_plain = metadata["data_type"] in np.sctypeDict and np.isscalar(metadata["fill_value"])
    if not (plain_keys and codecs_are_ours and rows_are_whole and is_plain):
        return None
    dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
    index_first = sharding.get("index_location", "end") == "start"
    per_shard = shard[0] // chunk[0]
    attributes = metadata.get("attributes", {})
    fill = metadata["fill_value"]
    return Layout(shape, dtype, fill, chunk[0], per_shard, index_first, attributes)


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return what the `zarr.json` of a group or an array says."""
    return json.loads((folder / "zarr.json").read_text(encoding="utf-8"))


def _are_ours(codecs: list[dict[str, Any]]) -> bool:
    names = [codec["name"] for codec in codecs]
    endian = codecs[0].get("configuration", {}).get("endian", "little")
    return names == ["bytes", "crc32c"] and endian == "little"
