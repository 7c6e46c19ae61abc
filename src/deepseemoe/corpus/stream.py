"""The stream of documents of each source, shuffled by the `datasets` library."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from datasets import IterableDataset

from deepseemoe.config.corpus import CorpusConfig
from deepseemoe.corpus import embedded, planted
from deepseemoe.corpus.chat import Chat
from deepseemoe.corpus.documents import Document
from deepseemoe.corpus.listing import SourceFile, list_files
from deepseemoe.corpus.readers import Keys, check_first_file, mean_chars, read_documents
from deepseemoe.names import SPLITS
from deepseemoe.runtime.seeds import seed_for

_GENERATED_DOMAINS = {
    "embedded": embedded.EMBEDDED_DOMAINS,
    "planted": planted.PLANTED_DOMAINS,
}


def stream_documents(
    config: CorpusConfig, *, seed: int, chat: Chat | None = None
) -> Iterator[Document]:
    """Yield the documents of the configured source, shuffled, bad ones too.

    `chat` renders them where `chat_key` is set.

    The order depends on the seed, on the files' names and order, and on `shuffle_buffer`. Raises
    ValueError at once where the source has no files or a domain is unknown, and later where a file
    is damaged.
    """
    generate, arguments = _generator(config, seed, chat)
    dataset = IterableDataset.from_generator(generate, gen_kwargs=arguments)
    shuffled = dataset.shuffle(
        seed=seed_for(seed, "corpus", "shuffle"), buffer_size=config.shuffle_buffer
    )
    read = (Document(**example) for example in shuffled)
    return islice(read, config.filters.max_rows)


def _generator(
    config: CorpusConfig, seed: int, chat: Chat | None
) -> tuple[Callable[..., Iterator[dict[str, Any]]], dict[str, Any]]:
    """Return what makes the documents of a source; `datasets` shuffles lists in its arguments."""
    if config.source in _GENERATED_DOMAINS:
        check_generated(config)
        if config.source == "embedded":
            return _from_embedded, {}
        return _from_planted, {"seed": seed, "n_documents": _enough_planted(config)}
    files = list_files(config)
    text_key = config.chat_key or config.text_key
    keys = Keys(text_key, config.domain_key, config.filters.language, chat)
    check_first_file(files[0], keys)
    needs_mean = config.filters.max_chars == "mean"
    return _from_files, {"files": files, "keys": keys, "needs_mean": needs_mean}


def _from_files(files: list[SourceFile], keys: Keys, needs_mean: bool) -> Iterator[dict[str, Any]]:
    for file in files:
        mean = mean_chars(file, keys) if needs_mean else None
        for document in read_documents(file, keys):
            yield document._replace(mean_chars=mean)._asdict()


def _from_embedded() -> Iterator[dict[str, Any]]:
    return (document._asdict() for document in embedded.documents())


def _from_planted(seed: int, n_documents: int) -> Iterator[dict[str, Any]]:
    return (document._asdict() for document in islice(planted.documents(seed), n_documents))


def _enough_planted(config: CorpusConfig) -> int:
    """Return how many fill all splits, even from one domain: a filter must not make it endless."""
    n_tokens = sum(getattr(config.n_tokens, split) for split in SPLITS)
    n_domains = len(planted.PLANTED_DOMAINS)
    return 1000 + n_domains * 2 * n_tokens // planted.DOCUMENT_PLACES[0]


def check_generated(config: CorpusConfig) -> None:
    """Raise ValueError where a generated source is asked for what it has not got."""
    known = _GENERATED_DOMAINS[config.source]
    unknown = sorted(set(config.domains) - set(known))
    if unknown:
        raise ValueError(
            f"corpus.domains: source {config.source} has no {', '.join(unknown)}; "
            f"it has {', '.join(known)}"
        )
    if config.filters.max_chars == "mean":
        raise ValueError(
            f"corpus.filters.max_chars: mean is taken over a source file, and source "
            f"{config.source} has none; write a number"
        )
