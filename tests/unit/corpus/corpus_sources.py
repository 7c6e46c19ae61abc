"""Small sources for the corpus tests, and a run of the stage on them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from deepseemoe.config.corpus import CorpusConfig
from deepseemoe.corpus.pack import pack_corpus
from deepseemoe.corpus.shards import TokenShard, read_shard
from deepseemoe.corpus.tokenizer import prepare_tokenizer
from deepseemoe.names import SPLITS, shard_name
from deepseemoe.runtime.tables import read_table

SMALL = {
    "n_tokens": {"train": 512, "select": 128, "test": 256},
    "sequence_length": 32,
    "shard_tokens": 256,
    "tokenizer": {"vocab_size": 300},
}


class Packed(NamedTuple):
    """What a run of the stage left on disk."""

    folder: Path
    rows: list[dict[str, Any]]
    shards: dict[str, list[TokenShard]]

    def tokens(self, split: str, name: str = "token_ids_SN") -> list[int]:
        """Return one array of all shards of a split, flat."""
        return [v for shard in self.shards[split] for v in getattr(shard, name).ravel().tolist()]


def json_lines(records: list[Mapping[str, Any]]) -> bytes:
    """Return records as JSON lines."""
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def zst(*frames: bytes) -> bytes:
    """Return a zstd file of several frames."""
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    return b"".join(map(compressor.compress, frames))


def articles(n: int, *, start: int = 0) -> list[dict[str, Any]]:
    """Return documents that are all different, of two domains."""
    return [
        {
            "id": f"a{number}",
            "text": f"Article {number} tells of {number * number} things and {number + 7} more.",
            "domain": ("even", "odd")[number % 2],
        }
        for number in range(start, start + n)
    ]


def run_stage(
    folder: Path, seed: int = 0, *, model_name: str | None = None, **config: Any
) -> Packed:
    """Prepare the tokenizer and pack the corpus in `folder`."""
    settings = CorpusConfig(**{**SMALL, **config})
    shards = {
        split: [folder / split / f"{shard_name(n)}.zarr" for n in range(settings.n_shards(split))]
        for split in SPLITS
    }
    prepare_tokenizer(
        settings, model_name=model_name, revision=None, folder=folder / "tokenizer", seed=seed
    )
    documents = folder / "documents.parquet"
    pack_corpus(
        settings,
        tokenizer_folder=folder / "tokenizer",
        shards=shards,
        documents=documents,
        seed=seed,
    )
    found = {split: [read_shard(path) for path in paths] for split, paths in shards.items()}
    return Packed(folder, read_table(documents).to_pylist(), found)
