"""The tokenizer of a run: the model's own, or one made for the corpus."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from deepseemoe.config.corpus import CorpusConfig
from deepseemoe.corpus import planted
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
    model's is not there or has no fast version.
    """
    if model_name:
        tokenizer = _model_tokenizer(model_name, revision)
    elif config.source == "planted":
        tokenizer = _finished(_word_level())
    else:
        tokenizer = _finished(_trained(config, seed))
    with growing(folder) as partial:
        tokenizer.save_pretrained(partial)
    logger.info("tokenizer of %d entries", len(tokenizer))


class Encoder:
    """Turns texts into token ids; each text opens with the tokenizer's BOS, or else EOS, token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._backend = _backend(tokenizer, tokenizer.name_or_path)
        # The web writes "<|endoftext|>" too; in a document it is text and must open nothing.
        self._backend.encode_special_tokens = True
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
    def load(cls, folder: Path) -> "Encoder":
        """Return the encoder of a tokenizer folder."""
        return cls(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of each text, uint32 (T,), with the opening token in front."""
        found = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array([self.opening_id, *one.ids], np.uint32) for one in found]


def tokenizer_hash(folder: Path) -> str:
    """Return 16 hexadecimal digits that name a tokenizer, for manifests."""
    return hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()[:16]


def _model_tokenizer(name: str, revision: str | None) -> PreTrainedTokenizerBase:
    name = os.path.expanduser(name)  # as load_model does
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())  # on one line
        raise ValueError(f"model.name {name}: its tokenizer cannot be loaded ({reason})") from None
    _backend(tokenizer, name)
    return tokenizer


def _backend(tokenizer: PreTrainedTokenizerBase, name: str) -> Tokenizer:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"{name}: the tokenizer has no fast version (tokenizer.json); use one that has"
        )
    return backend


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
