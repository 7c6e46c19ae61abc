"""From a source to token shards, and a table of what became of every document."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from deepseemoe.config.corpus import CorpusConfig
from deepseemoe.corpus.chat import Chat
from deepseemoe.corpus.documents import REASONS, UNLABELLED, DocumentTable, growing_table
from deepseemoe.corpus.selection import Judged, affordable, hash_share, judge, sizes_of
from deepseemoe.corpus.sequences import Packer
from deepseemoe.corpus.shards import write_shard
from deepseemoe.corpus.stream import stream_documents
from deepseemoe.corpus.tokenizer import Encoder, load_tokenizer, tokenizer_hash
from deepseemoe.names import SPLITS
from deepseemoe.runtime.progress import Progress

logger = logging.getLogger(__name__)

_BATCH_DOCUMENTS = 512

Item = TypeVar("Item")


def pack_corpus(
    config: CorpusConfig,
    *,
    tokenizer_folder: Path,
    shards: Mapping[str, Sequence[Path]],
    documents: Path,
    seed: int,
) -> None:
    """Write the token shards of all splits, and the table of all documents that were read.

    Reading stops where the splits are full. Raises ValueError where the source ends before, with
    the sizes that it does fill, and where a file is damaged or holds no text.
    """
    manifest = {
        "stage": "corpus",
        "config": config.model_dump(mode="json"),
        "tokenizer": tokenizer_hash(tokenizer_folder),
        "seed": seed,
    }
    packing = _Packing(config, shards, manifest)
    encoder = Encoder.load(tokenizer_folder, is_chat=config.chat_key is not None)
    chat = Chat(load_tokenizer(tokenizer_folder)) if config.chat_key else None
    stream = stream_documents(config, seed=seed, chat=chat)
    with growing_table(documents, manifest) as table:
        for batch in _batches(judge(stream, config)):
            packing.add(batch, encoder, table)
            if packing.is_full:
                break
        packing.log()
        packing.check_full()


class _Packing:
    """The state of a run of `pack_corpus`: a packer for each split, and the counts so far."""

    def __init__(
        self,
        config: CorpusConfig,
        shards: Mapping[str, Sequence[Path]],
        manifest: Mapping[str, Any],
    ):
        for split in SPLITS:
            if len(shards[split]) != config.n_shards(split):
                raise ValueError(
                    f"shards: {len(shards[split])} paths for split {split}, which makes "
                    f"{config.n_shards(split)} shards"
                )
        self._config, self._manifest = config, manifest
        self._paths = {split: enumerate(shards[split]) for split in SPLITS}
        self._packers = {
            split: Packer(
                n_tokens=size,
                sequence_length=config.sequence_length,
                shard_tokens=config.shard_tokens,
            )
            for split, size in zip(SPLITS, sizes_of(config), strict=True)
        }
        self._reasons: Counter[str] = Counter()
        self._domains: Counter[str] = Counter()
        self._kept: list[tuple[float, int]] = []  # place among the hashes, tokens
        self._progress = Progress("pack corpus", sum(sizes_of(config)))

    @property
    def is_full(self) -> bool:
        """Whether all splits are."""
        return all(packer.is_full for packer in self._packers.values())

    def add(self, batch: Sequence[Judged], encoder: Encoder, table: DocumentTable) -> None:
        """Pack a batch in its order, and write what became of each document, until all is full."""
        wanted = [number for number, judged in enumerate(batch) if self._has_room(judged)]
        encoded = encoder.encode([batch[number].document.text for number in wanted])
        token_ids = dict(zip(wanted, encoded, strict=True))
        for number, judged in enumerate(batch):
            if self.is_full:
                break
            table.append(self._place(judged, token_ids.get(number)))
        self._write_shards()

    def _has_room(self, judged: Judged) -> bool:
        return judged.split is not None and not self._packers[judged.split].is_full

    def _place(self, judged: Judged, token_ids_T: np.ndarray | None) -> dict[str, Any]:
        """Pack one document where its split has room; return its row of the table."""
        is_kept = self._has_room(judged)
        doc_id = len(self._kept) if is_kept else None
        n_packed = self._packers[judged.split].add(token_ids_T, doc_id) if is_kept else 0
        reason = "kept" if is_kept else judged.reason or "split_full"
        self._reasons[reason] += 1
        if is_kept:
            self._kept.append((hash_share(judged.text_hash), n_packed))
            self._domains[judged.document.domain or UNLABELLED] += 1
            self._progress.advance(n_packed)
        return {
            "doc_id": doc_id,
            "name": judged.document.name,
            "file": judged.document.file,
            "row": judged.document.row,
            "domain": judged.document.domain,
            "n_chars": len(judged.document.text),
            "n_tokens": n_packed,
            "text_hash": judged.text_hash,
            "split": judged.split if is_kept else None,
            "reason": reason,
        }

    def _write_shards(self) -> None:
        for split, packer in self._packers.items():
            for tokens in packer.shards():
                shard, path = next(self._paths[split])
                write_shard(path, tokens, split=split, shard=shard, manifest=self._manifest)

    def log(self) -> None:
        """Tell what became of the documents, and of which domains the kept ones are."""
        logger.info("read %d documents: %s", self._reasons.total(), self._told())
        domains = ", ".join(f"{name} {count}" for name, count in sorted(self._domains.items()))
        logger.info("kept documents by domain: %s", domains or "none")

    def check_full(self) -> None:
        """Raise ValueError where a split is not full, with the sizes that the documents do fill."""
        if self.is_full:
            return
        short = ", ".join(
            f"{split} has {packer.n_packed} of {packer.n_tokens} tokens"
            for split, packer in self._packers.items()
            if not packer.is_full
        )
        raise ValueError(
            f"corpus: the source ended before its splits were full: {short} "
            f"({self._reasons.total()} documents read: {self._told()}); {self._advice()}"
        )

    def _told(self) -> str:
        return ", ".join(f"{name} {self._reasons[name]}" for name in REASONS if self._reasons[name])

    def _advice(self) -> str:
        """Return what to write instead."""
        shares, n_tokens = np.array(self._kept).reshape(-1, 2).T
        length = self._config.sequence_length
        sizes = affordable(shares, n_tokens, sizes_of(self._config), length)
        if not all(sizes):
            return "name more text, or write a smaller sequence_length"
        named = ", ".join(f"{split}: {size}" for split, size in zip(SPLITS, sizes, strict=True))
        return f"name more text, or write n_tokens: {{{named}}}"


def _batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    while batch := list(islice(items, _BATCH_DOCUMENTS)):
        yield batch
