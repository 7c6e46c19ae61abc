"""The tokenizer of a run: the model's own, or one made for the corpus."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from deepseemoe.config.corpus import CorpusConfig
from deepseemoe.corpus import planted
from deepseemoe.corpus.chat import Chat
from deepseemoe.corpus.model_tokenizer import backend_of, model_tokenizer
from deepseemoe.corpus.selection import judge
from deepseemoe.corpus.stream import stream_documents
from deepseemoe.runtime.files import growing

logger = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
"""Opens each document, id 0, in the tokenizers made here."""

_TRAINING_CHARS = 20_000_000


def prepare_tokenizer(
    config: CorpusConfig, *, model_name: str | None, revision: str | None, folder: Path, seed: int
) -> None:
    """Write the run's tokenizer to `folder`; the same configuration and seed give the same bytes.

    It is the one of `model_name` (a Hub name or folder), else for the planted language one token a
    word, else byte-level BPE trained on documents of the train split. Raises ValueError where the
    model's is not there, cannot be its own, or has no chat template though `chat_key` is set.
    """
    if model_name:
        tokenizer = model_tokenizer(model_name, revision)
    elif config.source == "planted":
        tokenizer = _finished(_word_level())
    else:
        tokenizer = _finished(_trained(config, seed))
    if config.chat_key:
        Chat(tokenizer)
    with growing(folder) as partial:
        tokenizer.save_pretrained(partial)
    logger.info("tokenizer of %d entries", len(tokenizer))


class Encoder:
    """Turns texts into token ids; each text opens with the tokenizer's BOS, or else EOS, token.

    The web writes "<|endoftext|>" too; in a document it is text and must open nothing. In a chat it
    was written by the template, and is the token; one that opens the text is not added again.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, is_chat: bool = False):
        self._is_chat = is_chat
        self._backend = backend_of(tokenizer, tokenizer.name_or_path)
        self._backend.encode_special_tokens = not is_chat
        self._backend.no_truncation()
        self._backend.no_padding()
        opening = tokenizer.bos_token_id
        self.opening_id = tokenizer.eos_token_id if opening is None else opening
        if self.opening_id is None:
            raise ValueError(
                f"{tokenizer.name_or_path}: the tokenizer has neither a BOS nor an EOS token, "
                "and documents must open with one"
            )

    @classmethod
    def load(cls, folder: Path, *, is_chat: bool = False) -> "Encoder":
        """Return the encoder of a tokenizer folder."""
        return cls(load_tokenizer(folder), is_chat=is_chat)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of each text, uint32 (T,), with the opening token in front."""
        found = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(self._opened(one.ids), np.uint32) for one in found]

    def _opened(self, ids: list[int]) -> list[int]:
        is_open = self._is_chat and ids[:1] == [self.opening_id]
        return ids if is_open else [self.opening_id, *ids]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer that `prepare_tokenizer` wrote."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def tokenizer_hash(folder: Path) -> str:
    """Return 16 hexadecimal digits that name a tokenizer, for manifests."""
    return hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()[:16]


def _finished(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def _word_level() -> Tokenizer:
    """Return the planted language's tokenizer: END_OF_TEXT is 0, word i of the vocabulary i + 1."""
    ids = {word: number for number, word in enumerate((END_OF_TEXT, *planted.vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(ids))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # Words decode with their space in front, as the tokens of a byte-level BPE do.
    tokenizer.decoder = decoders.Replace(Regex("^"), " ")
    return tokenizer


def _trained(config: CorpusConfig, seed: int) -> Tokenizer:
    """Return a byte-level BPE (Sennrich et al. 2016, on bytes as in GPT-2)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.tokenizer.vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_texts(config, seed), trainer)
    if tokenizer.get_vocab_size() < config.tokenizer.vocab_size:
        logger.warning(
            "tokenizer: the text gives %d entries only, not vocab_size %d",
            tokenizer.get_vocab_size(),
            config.tokenizer.vocab_size,
        )
    return tokenizer


def _training_texts(config: CorpusConfig, seed: int) -> Iterator[str]:
    """Yield documents of the train split until there are enough."""
    n_chars = 0
    for judged in judge(stream_documents(config, seed=seed), config):
        if judged.split == "train":
            yield judged.document.text
            n_chars += len(judged.document.text)
            if n_chars >= _TRAINING_CHARS:
                return
