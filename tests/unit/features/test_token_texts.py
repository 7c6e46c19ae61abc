"""Texts of tokens: joined they are the text, and no two tokens of different bytes read alike."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from deepseemoe.config import CorpusConfig
from deepseemoe.corpus.tokenizer import prepare_tokenizer
from deepseemoe.features.tokens import byte_alphabet, token_texts

SAMPLE = "def größe(x):\n    return x + 1  # naïve\n“quoted”"


@pytest.fixture
def byte_level(tmp_path):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([SAMPLE] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path, tokenizer


def test_the_alphabet_is_that_of_the_tokenizers_library():
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))


def test_byte_level_tokens_read_as_the_text_with_their_spaces(byte_level):
    folder, tokenizer = byte_level
    texts = token_texts(folder)
    ascii_text = "def f(x):\n    return x + 1"
    assert "".join(texts[i] for i in tokenizer.encode(ascii_text).ids) == ascii_text
    assert len(texts) == tokenizer.get_vocab_size()
    assert texts[tokenizer.token_to_id("<|endoftext|>")] == "<|endoftext|>"


def test_parts_of_characters_are_told_apart_by_their_bytes(byte_level):
    folder, tokenizer = byte_level
    texts = token_texts(folder)
    alphabet = {byte: piece for piece, byte in byte_alphabet().items()}
    found = [texts[tokenizer.token_to_id(alphabet[byte])] for byte in (0xE2, 0x80, 0xC3)]
    assert found == ["\\xe2", "\\x80", "\\xc3"]
    assert len(set(texts)) == len(texts)


def test_sentencepiece_tokens_keep_their_leading_space(tmp_path):
    vocabulary = {"<unk>": 0, "▁def": 1, "def": 2, "<0x0A>": 3, "<0xE2>": 4}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert token_texts(tmp_path) == ["<unk>", " def", "def", "\n", "\\xe2"]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        token_texts(tmp_path)


def test_words_of_the_planted_language_keep_the_space_between_them(tmp_path):
    config = CorpusConfig(source="planted")
    prepare_tokenizer(config, model_name=None, revision=None, folder=tmp_path / "t", seed=0)
    texts = token_texts(tmp_path / "t")
    assert texts[:2] == ["<|endoftext|>", " star"]
