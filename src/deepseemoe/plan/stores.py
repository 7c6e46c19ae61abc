"""Bytes on disk of token shards, activation stores and sparse features, split by split.

Stores are raw, so their bytes are exact but for chunks of zeros, which are left out, and the digits
in their metadata. Token shards and features are compressed: bytes a token were measured.
"""

from collections import Counter
from collections.abc import Sequence
from math import log2

from deepseemoe.activations.capture import stored_arrays
from deepseemoe.activations.layout import BFLOAT16, ArraySpec
from deepseemoe.activations.shard_format import CRC_BYTES
from deepseemoe.activations.writer import TOKEN_ARRAYS
from deepseemoe.config import ActivationsConfig, RunConfig
from deepseemoe.plan.network import Network

WRITERS_OWN = (ArraySpec("order", "uint32"), ArraySpec("is_valid", "uint8"))
"""What a store's writer adds."""

EXTENT_BYTES = 16
"""Offset and length of a chunk in a shard's index."""

METADATA_BYTES = 1600
"""One `zarr.json` of ours, about: an array with its codecs and attributes."""

TOKEN_BYTES = 1.5
"""A packed token on disk; measured: 1.37 and 1.51 on web text with vocabularies of 100k."""

ACTIVATION_BYTES, TOKEN_FEATURE_BYTES = 3.6, 2.9
"""An activation and a token in a feature shard, without the feature's number; measured."""

NUMBER_BITS = 1.1
"""Bits of a feature's number for each that it must have; measured: 1.0 to 1.14."""


def loaded(run: RunConfig, network: Network) -> Network:
    """Return what capture loads of a model."""
    if run.activations.routing == "all":
        return network.first(None)
    return network.first(min(run.n_layers_read(), network.n_layers))


def arrays_of(run: RunConfig, network: Network) -> tuple[ArraySpec, ...]:
    """Return all arrays of the run's stores but the statistics.

    Raises ValueError where a window or hook point is none of the model's.
    """
    arrays = stored_arrays(
        loaded(run, network), run.sites(), router_logits=run.activations.router_logits
    )
    return (*arrays, *TOKEN_ARRAYS, *WRITERS_OWN)


def row_bytes(arrays: Sequence[ArraySpec]) -> int:
    """Return the bytes of one token, without checksums."""
    return sum(spec.row_bytes for spec in arrays)


def shard_sizes(run: RunConfig, split: str) -> list[int]:
    """Return the tokens of each shard of a split."""
    n_tokens, size = getattr(run.corpus.n_tokens, split), run.corpus.shard_tokens
    return [min(size, n_tokens - start) for start in range(0, n_tokens, size)]


def split_bytes(run: RunConfig, arrays: Sequence[ArraySpec], split: str) -> int:
    """Return the bytes of all stores of a split."""
    sizes = Counter(shard_sizes(run, split))
    return sum(n * store_bytes(arrays, size, run.activations) for size, n in sizes.items())


def store_bytes(arrays: Sequence[ArraySpec], n_tokens: int, config: ActivationsConfig) -> int:
    """Return the bytes of one store: chunks, checksums, indices, statistics, metadata."""
    sites = [spec for spec in arrays if spec.view_dtype == BFLOAT16]
    rows = sum(array_bytes(spec, n_tokens, config) for spec in arrays)
    moments = sum(2 * 4 * (spec.width or 1) + CRC_BYTES + _index_bytes(1) for spec in sites)
    return rows + moments + METADATA_BYTES * (len(arrays) + len(sites))


def array_bytes(spec: ArraySpec, n_tokens: int, config: ActivationsConfig) -> int:
    """Return the bytes of an array's shard files; the last chunk is stored whole."""
    n_chunks = -(-n_tokens // config.chunk_tokens)
    n_shards = -(-n_tokens // config.window_tokens)
    chunk_bytes = config.chunk_tokens * spec.row_bytes + CRC_BYTES
    return n_chunks * chunk_bytes + n_shards * _index_bytes(
        config.window_tokens // config.chunk_tokens
    )


def _index_bytes(n_chunks: int) -> int:
    return n_chunks * EXTENT_BYTES + CRC_BYTES


def corpus_bytes(n_tokens: int) -> float:
    """Return the bytes of packed tokens."""
    return TOKEN_BYTES * n_tokens


def feature_bytes(n_tokens: int, *, k: float, d_dict: int) -> float:
    """Return the bytes of sparse features, of which `k` are active on a token."""
    number = NUMBER_BITS * log2(d_dict) / 8
    return n_tokens * (TOKEN_FEATURE_BYTES + k * (ACTIVATION_BYTES + number))
