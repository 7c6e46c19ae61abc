"""Where the text comes from, which of it is kept, and how it becomes token sequences."""

import os
from typing import Literal

from pydantic import Field, field_validator, model_validator

from deepseemoe.config.base import Section


class FilterConfig(Section):
    """Which documents are kept; every document that is not is counted with its reason."""

    min_chars: int = Field(1, ge=1, description="Shorter documents are dropped (characters).")
    max_chars: int | Literal["mean"] | None = Field(
        None,
        description="Longer documents are dropped (characters). `mean` uses the mean length of the "
        "documents of each source file, which takes one more pass over the file.",
    )
    language: str | None = Field(
        None, description="Language whose fastText score must reach `min_language_score`, as `en`."
    )
    min_language_score: float = Field(
        0.65, ge=0, le=1, description="Least language score; documents without a score are dropped."
    )
    min_quality_score: float | None = Field(
        None, ge=0, le=1, description="Least DCLM quality score; documents without it are dropped."
    )
    deduplicate: bool = Field(True, description="Keep only the first of documents with equal text.")
    max_rows: int | None = Field(
        None, gt=0, description="Read at most this many documents, kept or not; empty reads on."
    )

    @model_validator(mode="after")
    def _keeps_something(self) -> "FilterConfig":
        if isinstance(self.max_chars, int) and self.max_chars < self.min_chars:
            raise ValueError(
                f"max_chars {self.max_chars} is less than min_chars {self.min_chars}, which no "
                "document is; raise the one or lower the other"
            )
        return self


class SplitConfig(Section):
    """Tokens of each split; a document belongs to one split only, by the hash of its text."""

    train: int = Field(1_048_576, gt=0, description="Tokens for training (model, dictionaries).")
    select: int = Field(131_072, gt=0, description="Tokens for thresholds and screening.")
    test: int = Field(262_144, gt=0, description="Tokens for everything that is reported.")


class TokenizerConfig(Section):
    """The byte-level BPE tokenizer trained on the train split where the model brings none."""

    vocab_size: int = Field(4096, ge=300, le=1_000_000, description="Entries of the vocabulary.")


class CorpusConfig(Section):
    """The text: its source, its filters, and its packing into sequences of tokens."""

    source: Literal["embedded", "files", "hub", "planted"] = Field(
        "embedded",
        description="`embedded`: text that every Python installation carries (no download). "
        "`files`: local DCLM, Dolma or C4 shards, parquet or plain text. `hub`: a data set on the "
        "Hugging Face Hub in the DCLM layout. `planted`: a generated language with a known answer.",
    )
    paths: tuple[str, ...] = Field(
        (), description="Files, folders or globs for `source: files`; `~` and `$VARIABLES` expand."
    )
    dataset: str = Field(
        "mlfoundations/dclm-baseline-1.0", description="Data set on the Hub for `source: hub`."
    )
    global_shards: tuple[int, ...] = Field(
        (), description="DCLM global shards to read, as [1, 2]; empty reads all ten."
    )
    local_shards: tuple[int, ...] = Field(
        (), description="DCLM local shards to read, as [0]; empty reads all ten."
    )
    fraction: float = Field(
        1.0, gt=0, le=1, description="Share of the shard files to read, as 0.01; evenly spaced."
    )
    text_key: str = Field("text", description="Key or column that holds a document's text.")
    chat_key: str | None = Field(
        None,
        description="Key with a list of messages, each with role and content, that is read instead "
        "of `text_key`; documents are rendered with the tokenizer's chat template; needs a "
        "tokenizer with one, which models of `source: hub` may bring.",
    )
    domain_key: str | None = Field(
        "domain", description="Key or column with a label of the document, for domain tables."
    )
    domains: tuple[str, ...] = Field((), description="Keep only these domains; empty keeps all.")
    filters: FilterConfig = FilterConfig()
    n_tokens: SplitConfig = SplitConfig()
    sequence_length: int = Field(256, ge=8, description="Tokens of one packed sequence.")
    shard_tokens: int = Field(
        262_144, gt=0, description="Tokens of one shard, the unit of work; full scale: 2097152."
    )
    shuffle_buffer: int = Field(
        20_000, ge=1, description="Documents held in memory to shuffle the stream."
    )
    tokenizer: TokenizerConfig = TokenizerConfig()
    format: Literal[1] = Field(
        1, description="Layout of the shards; a higher one reruns the stage."
    )

    @field_validator("paths")
    @classmethod
    def _expand(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        """Expand `~` and `$VARIABLES` here: another folder is another configuration."""
        expanded = tuple(os.path.expandvars(os.path.expanduser(path)) for path in paths)
        for path in expanded:
            if not path.strip():
                raise ValueError("holds an empty path; name a file, a folder or a glob")
            if "\0" in path:
                raise ValueError("holds a path with a NUL in it; write the path anew")
            if "$" in path:
                raise ValueError(f"{path} names an environment variable that is not set; export it")
        return expanded

    @model_validator(mode="after")
    def _has_what_its_source_needs(self) -> "CorpusConfig":
        if self.source == "files" and not self.paths:
            raise ValueError("source `files` needs paths, as paths: [my/folder/*.jsonl.zst]")
        if self.chat_key and self.source not in ("files", "hub"):
            raise ValueError(f"chat_key: source `{self.source}` holds no chats; empty the key")
        if self.shard_tokens % self.sequence_length:
            raise ValueError(
                f"shard_tokens {self.shard_tokens} is not a multiple of sequence_length "
                f"{self.sequence_length}"
            )
        for split, n_tokens in self.n_tokens:
            if n_tokens % self.sequence_length:
                raise ValueError(
                    f"n_tokens.{split} {n_tokens} is not a multiple of sequence_length "
                    f"{self.sequence_length}"
                )
        return self

    def n_shards(self, split: str) -> int:
        """Return the shards of `split`; the last one may be shorter."""
        return -(-getattr(self.n_tokens, split) // self.shard_tokens)
