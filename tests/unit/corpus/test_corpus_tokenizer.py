"""Tokenizers made here, and copied from a model."""

import pytest
from corpus_sources import SMALL, articles, json_lines
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from deepseemoe.config.corpus import CorpusConfig
from deepseemoe.corpus import planted
from deepseemoe.corpus.tokenizer import END_OF_TEXT, Encoder, prepare_tokenizer, tokenizer_hash


def prepare(folder, model_name=None, **config):
    settings = CorpusConfig(**{**SMALL, **config})
    prepare_tokenizer(settings, model_name=model_name, revision=None, folder=folder, seed=0)
    return folder


@pytest.fixture
def trained(source, tmp_path):
    path = source("a.jsonl", json_lines(articles(300)))
    return prepare(tmp_path / "trained", source="files", paths=[str(path)])


def test_training_gives_the_same_bytes_again(trained, source, tmp_path):
    path = source("a.jsonl", json_lines(articles(300)))
    again = prepare(tmp_path / "again", source="files", paths=[str(path)])
    files = sorted(file.name for file in trained.iterdir())
    assert "tokenizer.json" in files
    assert all((trained / name).read_bytes() == (again / name).read_bytes() for name in files)
    assert tokenizer_hash(trained) == tokenizer_hash(again)


@pytest.mark.parametrize(
    "text", ["Article 3 tells", "  naïve\tcafé\n\n", "日本語 🙂 \x00", "", " "]
)
def test_any_text_survives_the_trained_tokenizer(trained, text):
    (token_ids,) = Encoder.load(trained).encode([text])
    tokenizer = AutoTokenizer.from_pretrained(trained)
    assert token_ids[0] == 0 == tokenizer.bos_token_id
    assert tokenizer.decode(token_ids[1:]) == text
    assert len(tokenizer) == 300


def test_a_special_token_written_in_a_document_opens_nothing(trained):
    (token_ids,) = Encoder.load(trained).encode([f"one{END_OF_TEXT}two"])
    assert token_ids.tolist().count(0) == 1
    assert AutoTokenizer.from_pretrained(trained).decode(token_ids[1:]) == f"one{END_OF_TEXT}two"


def test_the_planted_tokenizer_has_one_token_a_word(tmp_path):
    folder = prepare(tmp_path / "planted", source="planted")
    text = next(planted.documents(0)).text
    (token_ids,) = Encoder.load(folder).encode([text])
    words = planted.vocabulary()
    assert token_ids[0] == 0
    assert [words[number - 1] for number in token_ids[1:]] == text.split()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == len(words) + 1
    assert tokenizer.decode(token_ids[1:]) == f" {text}"
    assert tokenizer.decode(token_ids[1:2]) == f" {text.split()[0]}"


def save_model_tokenizer(folder, **special):
    words = {"<s>": 0, "</s>": 1, "Hello": 2, "?": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


def test_the_tokenizer_of_a_model_is_copied(tmp_path):
    model = save_model_tokenizer(tmp_path / "model", bos_token="<s>", eos_token="</s>")
    copy = prepare(tmp_path / "copy", model_name=str(model))
    assert (copy / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    encoder = Encoder.load(copy)
    assert encoder.opening_id == 0
    assert encoder.encode(["Hello"])[0].tolist() == [0, 2]


def test_a_tokenizer_larger_than_the_embedding_of_its_model_is_refused(tmp_path):
    model = save_model_tokenizer(tmp_path / "model", bos_token="<s>")
    (model / "config.json").write_text('{"model_type": "olmoe", "vocab_size": 4}')
    prepare(tmp_path / "fits", model_name=str(model))
    (model / "config.json").write_text('{"model_type": "olmoe", "vocab_size": 3}')
    told = r"its tokenizer has 4 entries, and the model embeddings for 3 \(vocab_size of config"
    with pytest.raises(ValueError, match=told):
        prepare(tmp_path / "copy", model_name=str(model))
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "written",
    [
        '{"model_type": "llama4", "text_config": {"model_type": "llama4_text", "vocab_size": 3}}',
        '{"model_type": "olmoe", "text_config": null, "vocab_size": 3}',
    ],
)
def test_the_vocabulary_is_that_of_the_text_model(written, tmp_path):
    model = save_model_tokenizer(tmp_path / "model", bos_token="<s>")
    (model / "config.json").write_text(written)
    with pytest.raises(ValueError, match="embeddings for 3"):
        prepare(tmp_path / "copy", model_name=str(model))


def test_a_vocabulary_that_config_json_leaves_out_is_the_default(tmp_path):
    model = save_model_tokenizer(tmp_path / "model", bos_token="<s>")
    (model / "config.json").write_text('{"model_type": "olmoe"}')
    prepare(tmp_path / "copy", model_name=str(model))


def test_documents_open_with_eos_where_there_is_no_bos(tmp_path):
    folder = save_model_tokenizer(tmp_path / "model", eos_token="</s>")
    assert Encoder.load(folder).opening_id == 1


def test_a_tokenizer_without_either_is_refused(tmp_path):
    folder = save_model_tokenizer(tmp_path / "model")
    with pytest.raises(ValueError, match="has neither a BOS nor an EOS token"):
        Encoder.load(folder)


def test_a_folder_without_a_tokenizer_is_an_error_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: the folder holds no tokenizer") as caught:
        prepare(tmp_path / "out", model_name=str(tmp_path / "empty"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
