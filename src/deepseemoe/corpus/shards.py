"""Token shards on disk: a zarr v3 group of three arrays.

Axes: S sequences, N sequence length.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from deepseemoe.runtime.arrays import whole_group
from deepseemoe.runtime.files import growing

SHARD_FORMAT = 1
_ARRAYS = ("token_id", "doc_id", "position")
_CHUNK_TOKENS = 1 << 20


class TokenShard(NamedTuple):
    """Full sequences of one shard; `positions_SN == 0` opens a segment."""

    token_ids_SN: np.ndarray
    doc_ids_SN: np.ndarray
    positions_SN: np.ndarray


def write_shard(
    path: Path, tokens: TokenShard, *, split: str, shard: int, manifest: Mapping[str, Any]
) -> None:
    """Write one shard, whole or not at all; equal tokens give equal bytes."""
    attributes = {"format": SHARD_FORMAT, "kind": "corpus", "split": split, "shard": shard}
    with growing(path) as partial:
        group = zarr.create_group(
            partial, zarr_format=3, attributes={**attributes, "manifest": dict(manifest)}
        )
        for name, values_SN in zip(_ARRAYS, tokens, strict=True):
            n_sequences, length = values_SN.shape
            array = group.create_array(
                name,
                shape=values_SN.shape,
                dtype="uint32",
                chunks=(min(n_sequences, max(1, _CHUNK_TOKENS // length)), length),
                compressors=ZstdCodec(level=3, checksum=True),
                # A missing chunk must mean damage; zarr leaves out chunks of zeros by default.
                config={"write_empty_chunks": True},
            )
            array[:] = values_SN


def read_shard(path: Path) -> TokenShard:
    """Return a token shard; raise ValueError where `path` is not one, is older, or is damaged."""
    with whole_group(path):
        group = _checked(path)
        return TokenShard(*(_read_whole(group, name, path) for name in _ARRAYS))


def shard_shape(path: Path) -> tuple[int, int]:
    """Return sequences and sequence length of a shard, (S, N), without its tokens."""
    with whole_group(path):
        return _checked(path)["token_id"].shape


def _checked(path: Path) -> zarr.Group:
    """Return the group at `path`; raise ValueError where it is no token shard of this format."""
    try:
        group = zarr.open_group(path, mode="r")
    except FileNotFoundError:
        raise ValueError(f"{path}: no token shard here; run pack_corpus") from None
    kind, number = group.attrs.get("kind"), group.attrs.get("format")
    if kind != "corpus" or number != SHARD_FORMAT:
        raise ValueError(
            f"{path}: kind {kind!r} of format {number!r}, expected 'corpus' of format "
            f"{SHARD_FORMAT}; run pack_corpus again"
        )
    return group


def _read_whole(group: zarr.Group, name: str, path: Path) -> np.ndarray:
    """Return an array of a shard; zarr reads missing chunks as zeros, here they are an error."""
    array = group.get(name)
    if not isinstance(array, zarr.Array) or array.nchunks_initialized != array.nchunks:
        raise ValueError(f"{path}: parts of {name} are missing; run pack_corpus again")
    try:
        return array[:]
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: {name} is damaged ({error}); run pack_corpus again") from None
