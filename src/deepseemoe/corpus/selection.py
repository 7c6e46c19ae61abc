"""Which documents are kept, and in which split: decided by the document, never by chance.

The split follows from a hash of the text and the proportions of the splits. It does not depend on
the seed or on other documents, so a document that trained one run is in no other run's test.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from deepseemoe.config.corpus import CorpusConfig, FilterConfig
from deepseemoe.corpus.documents import Document
from deepseemoe.names import SPLITS


class Judged(NamedTuple):
    """A document with its split, or with the reason why it is dropped."""

    document: Document
    text_hash: str | None
    split: str | None
    reason: str | None


def judge(documents: Iterable[Document], config: CorpusConfig) -> Iterator[Judged]:
    """Yield every document with its split, or its reason; memory grows by 16 bytes a kept text."""
    ends = split_ends(sizes_of(config))
    seen: set[bytes] = set()
    for document in documents:
        if document.problem:
            yield Judged(document, None, None, document.problem)
            continue
        digest = hashlib.blake2b(document.text.encode("utf-8"), digest_size=16).digest()
        reason = _objection(document, config.filters, config.domains)
        if not reason and config.filters.deduplicate:
            reason = "duplicate" if digest in seen else None
            seen.add(digest)
        split = None if reason else split_of(hash_share(digest.hex()), ends)
        yield Judged(document, digest.hex(), split, reason)


def hash_share(text_hash: str) -> float:
    """Return where a text lies among all texts, in [0, 1), by its hash."""
    return int(text_hash[:13], 16) / 16**13  # 52 bits, exact in a float


def sizes_of(config: CorpusConfig) -> tuple[int, ...]:
    """Return the tokens asked for, in the order of SPLITS."""
    return tuple(getattr(config.n_tokens, split) for split in SPLITS)


def split_ends(sizes: Sequence[int]) -> list[float]:
    """Return where the splits but the last end among the shares, in proportion to their `sizes`."""
    return (np.cumsum(sizes)[:-1] / sum(sizes)).tolist()


def split_of(share: float, ends: Sequence[float]) -> str:
    """Return the split of a text that lies at `share` among all texts."""
    return SPLITS[bisect_right(ends, share)]


def affordable(
    shares: np.ndarray, n_tokens: np.ndarray, sizes: Sequence[int], sequence_length: int
) -> tuple[int, ...]:
    """Return the largest sizes, in the proportions of `sizes`, that the documents fill.

    `shares` is each document's place by hash, `n_tokens` its length. Other proportions would move
    documents between splits; rounding to whole sequences moves few, and is checked here.
    """
    found = _tokens_by_split(shares, n_tokens, sizes)
    scale = min(1.0, min(found / np.array(sizes)))
    while True:
        smaller = [int(size * scale) // sequence_length * sequence_length for size in sizes]
        found = _tokens_by_split(shares, n_tokens, smaller)
        if not all(smaller) or all(found >= np.array(smaller)):
            return tuple(smaller)
        scale *= 0.99


def _tokens_by_split(shares: np.ndarray, n_tokens: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    if not sum(sizes):
        return np.zeros(len(sizes))
    split = np.searchsorted(split_ends(sizes), shares, side="right")
    return np.bincount(split, n_tokens, minlength=len(sizes))


def _objection(document: Document, filters: FilterConfig, domains: Sequence[str]) -> str | None:
    """Return the first reason to drop a document, or None."""
    most = document.mean_chars if filters.max_chars == "mean" else filters.max_chars
    n_chars = len(document.text)
    if domains and document.domain not in domains:
        return "domain"
    if n_chars < filters.min_chars:
        return "too_short"
    if most is not None and n_chars > most:
        return "too_long"
    if filters.language and not _reaches(document.language_score, filters.min_language_score):
        return "language"
    if not _reaches(document.quality_score, filters.min_quality_score):
        return "quality"
    return None


def _reaches(score: float | None, least: float | None) -> bool:
    """Whether a score is there and high enough; a NaN is not."""
    return least is None or (score is not None and score >= least)
