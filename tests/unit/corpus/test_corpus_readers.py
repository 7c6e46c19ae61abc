"""Robust reading: a bad document is counted, a bad file is an error in one line."""

import gzip
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_sources import articles, json_lines, zst

from deepseemoe.config.corpus import CorpusConfig
from deepseemoe.corpus.blocks import split_lines
from deepseemoe.corpus.listing import list_files
from deepseemoe.corpus.readers import (
    LANGUAGE_KEY,
    QUALITY_KEY,
    Keys,
    check_first_file,
    mean_chars,
    read_documents,
)

KEYS = Keys("text", "domain", "en")


def only_file(path):
    (file,) = list_files(CorpusConfig(source="files", paths=[str(path)]))
    return file


def read(path, keys=KEYS):
    return list(read_documents(only_file(path), keys))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": "good"}', None),
        (b'{"text": "cut', "broken_json"),
        (b"[1, 2]", "broken_json"),
        (b"[" * 100_000, "broken_json"),
        (b'{"text": "good", "n": ' + b"9" * 5000 + b"}", "broken_json"),
        (b'{"text": "caf\xe9"}', "bad_encoding"),
        (b'{"text": "\\ud800"}', "bad_encoding"),
        (b'{"body": "x"}', "no_text"),
        (b'{"text": null}', "no_text"),
        (b'{"text": 3}', "no_text"),
        (b'{"text": ""}', "empty"),
        (b'{"text": " \\n"}', "empty"),
    ],
)
def test_a_bad_line_comes_out_with_its_problem_and_its_row(source, line, problem):
    path = source("a.jsonl", b'{"text": "first"}\n\n' + line + b'\n{"text": "last"}')
    found = read(path)
    assert [one.row for one in found] == [0, 2, 3]
    assert [one.problem for one in found] == [None, problem, None]
    assert bool(found[1].text) == (problem is None)


def test_names_domains_and_scores_are_read(source):
    record = {
        "text": "t",
        "url": "http://a",
        "domain": 7,
        LANGUAGE_KEY: {"en": 0.82, "de": 0.1},
        QUALITY_KEY: 0.5,
    }
    first, second = read(source("a.jsonl", json_lines([record, {"text": "t", "domain": [1]}])))
    assert (first.name, first.domain) == ("http://a", "7")
    assert (first.language_score, first.quality_score) == (0.82, 0.5)
    assert (second.name, second.domain) == ("a.jsonl:1", None)
    assert second.language_score is second.quality_score is None


def test_a_dotted_key_reaches_into_a_record(source):
    path = source("a.jsonl", b'{"text": "t", "metadata": {"topic": "law"}}\n{"text": "u"}\n')
    assert [one.domain for one in read(path, Keys("text", "metadata.topic"))] == ["law", None]


def test_a_byte_order_mark_is_no_part_of_the_first_record(source):
    assert read(source("a.jsonl", b'\xef\xbb\xbf{"text": "good"}'))[0].text == "good"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_do_not_depend_on_where_blocks_end(size):
    content = b"one\n\ntwo\r\nthree"
    blocks = [content[start : start + size] for start in range(0, len(content), size)]
    assert list(split_lines(blocks)) == [b"one", b"", b"two\r", b"three"]


def test_all_frames_of_a_zstd_file_are_read(source):
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"
    records = articles(9)
    frames = [json_lines(records[start : start + 3]) for start in (0, 3, 6)]
    content = zst(frames[0]) + skippable + zst(*frames[1:])
    path = source("a.jsonl.zst", content)
    assert [one.text for one in read(path)] == [record["text"] for record in records]


def test_a_record_may_run_over_frames_and_blocks(source):
    long = json_lines([{"text": "x" * 3_000_000}, {"text": "y"}])
    found = read(source("a.jsonl.zst", zst(long[:1_500_000], long[1_500_000:])))
    assert [len(one.text) for one in found] == [3_000_000, 1]


@pytest.mark.parametrize("lost", [1, 5, 60])
def test_a_cut_zstd_file_is_an_error(source, lost):
    path = source("a.jsonl.zst", zst(json_lines(articles(50)), json_lines(articles(50)))[:-lost])
    with pytest.raises(
        ValueError, match=r"a\.jsonl\.zst: damaged or cut zst data \(the file ends inside a frame\)"
    ):
        read(path)


def test_a_damaged_zstd_file_is_an_error(source):
    content = bytearray(zst(json_lines(articles(50))))
    content[-2] ^= 0xFF  # in the checksum
    with pytest.raises(
        ValueError, match=r"a\.jsonl\.zst: damaged or cut zst data .*; fetch the file"
    ):
        read(source("a.jsonl.zst", bytes(content)))
    with pytest.raises(ValueError, match="damaged or cut zst data"):
        read(source("b.jsonl.zst", b"this is no zstd file at all"))


def test_gzip_is_read_whole_or_is_an_error(source):
    content = gzip.compress(json_lines(articles(50)))
    assert len(read(source("a.json.gz", content))) == 50
    with pytest.raises(ValueError, match=r"b\.json\.gz: damaged or cut gz data"):
        read(source("b.json.gz", content[:-9]))
    with pytest.raises(ValueError, match=r"c\.json\.gz: damaged or cut gz data"):
        read(source("c.json.gz", content[:-8] + b"12345678"))
    with pytest.raises(ValueError, match=r"d\.json\.gz: damaged or cut gz data"):
        read(source("d.json.gz", b"plain text"))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", b""), ("a.jsonl", b"\n \n"), ("a.jsonl.zst", b""), ("a.jsonl.zst", zst(b""))],
)
def test_a_file_without_documents_is_an_error(source, name, content):
    line = re.escape(f"{name}: the file holds no documents; fetch it again, or leave it out")
    with pytest.raises(ValueError, match=line):
        read(source(name, content))


def test_a_text_file_is_one_document(source):
    found = read(source("a.txt", b"line one\nline two\n"))
    assert [(one.text, one.name, one.problem) for one in found] == [
        ("line one\nline two\n", "a.txt:0", None)
    ]
    assert read(source("b.txt", b"caf\xe9"))[0].problem == "bad_encoding"
    assert read(source("c.txt", b""))[0].problem == "empty"


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def test_parquet_rows_are_documents(source):
    path = parquet(
        source("a.parquet", b""),
        text=pa.array(["one", None, " ", "four"]),
        domain=pa.array(["x", "y", None, "x"]).dictionary_encode(),
        url=pa.array(["u0", "u1", "u2", "u3"], pa.large_string()),
        **{LANGUAGE_KEY: pa.array([{"en": 0.9}, {"en": 0.1}, None, {"en": None}])},
        other=pa.array([1, 2, 3, 4]),
    )
    found = read(path)
    assert [one.text for one in found] == ["one", "", "", "four"]
    assert [one.problem for one in found] == [None, "no_text", "empty", None]
    assert [one.domain for one in found] == ["x", "y", None, "x"]
    assert [one.name for one in found] == ["u0", "u1", "u2", "u3"]
    assert [one.language_score for one in found] == [0.9, 0.1, None, None]


def test_bad_utf8_in_parquet_is_one_bad_document(source):
    raw = pa.array([b"good", b"caf\xe9"], pa.binary())
    path = source("a.parquet", b"")
    text = pa.StringArray.from_buffers(2, *raw.buffers()[1:])
    pq.write_table(pa.table({"text": text}), path)
    assert [one.problem for one in read(path)] == [None, "bad_encoding"]


def test_parquet_that_cannot_be_read_is_an_error(source):
    whole = parquet(source("a.parquet", b""), body=pa.array(["x"]), id=pa.array(["1"]))
    with pytest.raises(
        ValueError, match=r"a\.parquet: no column for text_key 'text'; .*: body, id"
    ):
        read(whole)
    cut = source("b.parquet", whole.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"b\.parquet: cannot be read as parquet \("):
        read(cut)
    with pytest.raises(ValueError, match=r"c\.parquet: cannot be read as parquet \("):
        read(source("c.parquet", b""))


def test_a_wrong_text_key_names_the_keys_that_are_there(source):
    path = source("a.jsonl", json_lines([{"body": "x", "id": n} for n in range(3)]) + b"{bad\n")
    line = (
        r"a\.jsonl: none of its first 4 documents has text at text_key 'text' "
        r"\(3 no_text, 1 broken_json\); keys found: body, id$"
    )
    with pytest.raises(ValueError, match=line):
        check_first_file(only_file(path), KEYS)


def test_one_good_document_is_enough_to_go_on(source):
    lines = json_lines([{"body": "x"}] * 999 + [{"text": "good"}])
    check_first_file(only_file(source("a.jsonl", lines)), KEYS)
    with pytest.raises(ValueError, match="none of its first 1000 documents"):
        check_first_file(only_file(source("b.jsonl", json_lines([{"body": "x"}]) + lines)), KEYS)


def test_mean_chars_leaves_bad_documents_out(source):
    records = [{"text": "a" * 10}, {"text": "b" * 30}, {"text": None}, {}]
    assert mean_chars(only_file(source("a.jsonl", json_lines(records))), KEYS) == 20.0
    assert json.loads(json_lines(records[:1])) == records[0]
