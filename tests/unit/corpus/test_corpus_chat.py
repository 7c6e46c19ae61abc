"""Chats become text by the tokenizer's own template, whose control tokens stay tokens."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_sources import SMALL, json_lines, run_stage
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from deepseemoe.config import ConfigError, load_run
from deepseemoe.config.corpus import CorpusConfig
from deepseemoe.corpus.chat import Chat
from deepseemoe.corpus.tokenizer import Encoder, prepare_tokenizer

CONTROL = ("<|start|>", "<|message|>", "<|end|>", "<|begin|>")
HARMONY = """
{%- if messages[0]["role"] != "system" -%}
<|start|>system<|message|>Today: {{ strftime_now("%Y-%m-%d") }}<|end|>
{%- endif -%}
{%- for message in messages -%}
{%- if message.role not in ("system", "user", "assistant") -%}
{{ raise_exception("no such role") }}
{%- endif -%}
<|start|>{{ message.role }}
{%- if "thinking" in message %} thinks {{ message.thinking.strip() }}{% endif -%}
<|message|>{{ message.content }}<|end|>
{%- endfor -%}
"""
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello\n you"}]
RENDERED = (
    "<|start|>system<|message|>Today: 2025-08-05<|end|><|start|>user<|message|>Hi<|end|>"
    "<|start|>assistant<|message|>Hello\n you<|end|>"
)


@pytest.fixture
def model(tmp_path):
    """Return the folder of a byte tokenizer whose control tokens are 256 and on."""
    letters = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        additional_special_tokens=list(CONTROL[:3]),
        chat_template=HARMONY,
        clean_up_tokenization_spaces=False,
    )
    made.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def tokenizer_of(folder) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(folder)


def test_a_chat_is_written_by_the_template_on_a_fixed_day(model):
    assert Chat(tokenizer_of(model)).render(CHAT) == (RENDERED, None)


def test_a_day_that_cannot_be_fixed_is_refused(model):
    tokenizer = tokenizer_of(model)
    tokenizer.chat_template = '{% set f = "%Y" %}{{ strftime_now(f) }}'
    with pytest.raises(ValueError, match="writes today's date in a format that it makes up"):
        Chat(tokenizer)


@pytest.mark.parametrize(
    "messages",
    [
        None,
        "Hi",
        [],
        ["Hi"],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": 3, "content": "Hi"}],
        [{"role": "wizard", "content": "Hi"}],
        [{"role": "user", "content": "Hi", "thinking": 3}],
    ],
)
def test_what_is_no_chat_is_dropped(model, messages):
    assert Chat(tokenizer_of(model)).render(messages) == ("", "bad_chat")


def test_a_message_that_spells_a_control_token_is_dropped(model):
    chat = Chat(tokenizer_of(model))
    assert chat.render([{"role": "user", "content": "a<|end|>b"}]) == ("", "control_token")
    assert chat.render([{"role": "user", "content": "a<|ends|>b"}])[1] is None


def test_keys_that_parquet_fills_up_are_not_there(model):
    chat = Chat(tokenizer_of(model))
    filled = [{**message, "thinking": None} for message in CHAT]
    assert chat.render(filled) == chat.render(CHAT)


def test_control_tokens_of_a_chat_are_tokens_and_those_of_a_text_are_text(model):
    tokenizer = tokenizer_of(model)
    control = set(tokenizer.convert_tokens_to_ids(list(CONTROL[:3])))
    (as_chat,) = Encoder.load(model, is_chat=True).encode([RENDERED])
    (as_text,) = Encoder.load(model).encode([RENDERED])
    assert sum(int(token) in control for token in as_chat) == 9
    assert not control & set(as_text.tolist())
    assert tokenizer.decode(as_chat[1:]) == tokenizer.decode(as_text[1:]) == RENDERED


def test_a_template_that_writes_the_opening_token_gets_no_second_one(model):
    encoder = Encoder.load(model, is_chat=True)
    without, with_it = encoder.encode(["Hi<|end|>", "<|begin|>Hi<|end|>"])
    assert without.tolist() == with_it.tolist()
    assert without.tolist().count(encoder.opening_id) == 1


def chats(n: int) -> list[dict]:
    says = "What is {n} and {n} and {n}? It is a number, as all of these are."
    return [
        {"id": f"c{n}", "chat": [{"role": "user", "content": says.format(n=n)}], "domain": "talk"}
        for n in range(n)
    ]


BAD = [
    {"chat": [{"role": "wizard", "content": "Hi"}]},
    {"chat": [{"role": "user", "content": "<|start|>"}]},
    {"chat": [{"role": "user", "content": "\ud800"}]},
    {"text": "no chat"},
]


def config_for(path) -> dict:
    return {"source": "files", "paths": [str(path)], "chat_key": "chat"}


def test_a_corpus_of_chats_is_packed_and_bad_ones_are_counted(model, source, tmp_path):
    path = source("a.jsonl", json_lines([*(BAD * 20), *chats(60)]))
    packed = run_stage(tmp_path / "out", model_name=str(model), **config_for(path))
    reasons = [row["reason"] for row in packed.rows]
    assert {"bad_chat", "control_token", "bad_encoding", "kept"} <= set(reasons)
    assert reasons.count("bad_chat") > reasons.count("control_token")
    start = tokenizer_of(model).convert_tokens_to_ids("<|start|>")
    opening = Encoder.load(model).opening_id
    ids = packed.tokens("train")
    assert ids[:2] == [opening, start]
    assert ids.count(opening) <= ids.count(start)


def test_chats_in_parquet_give_the_same_tokens(model, source, tmp_path):
    lines = source("a.jsonl", json_lines(chats(60)))
    from_lines = run_stage(tmp_path / "lines", model_name=str(model), **config_for(lines))
    table = pa.Table.from_pylist(chats(60))
    path = source("b/a.parquet", b"")
    pq.write_table(table, path)
    from_parquet = run_stage(tmp_path / "parquet", model_name=str(model), **config_for(path))
    assert from_lines.tokens("test") == from_parquet.tokens("test")


def test_a_file_without_chats_names_the_key_and_what_there_is(model, source, tmp_path):
    path = source("a.jsonl", json_lines([{"text": "Hi", "id": "1"}]))
    told = r"none of its first 1 documents has text at chat_key 'chat' \(1 bad_chat\); .*: id, text"
    with pytest.raises(ValueError, match=told):
        run_stage(tmp_path / "out", model_name=str(model), **config_for(path))


def test_a_tokenizer_without_a_template_is_refused_at_once(model, tmp_path):
    (model / "chat_template.jinja").unlink()
    config = CorpusConfig(**{**SMALL, **config_for("anywhere")})
    with pytest.raises(ValueError, match="chat_key: the tokenizer .* has no chat template; name a"):
        prepare_tokenizer(
            config, model_name=str(model), revision=None, folder=tmp_path / "out", seed=0
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"corpus": {"chat_key": "chat"}}, "chat_key: source `embedded` holds no chats"),
        (
            {"corpus": config_for("a.jsonl")},
            "corpus.chat_key: the tokenizer of model.source nanomoe has no chat template",
        ),
    ],
)
def test_chats_without_what_they_need_are_told_by_the_configuration(raw, told):
    with pytest.raises(ConfigError, match=told):
        load_run(raw)
