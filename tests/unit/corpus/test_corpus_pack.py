"""The whole stage on small sources."""

import re
from collections import Counter

import numpy as np
import pytest
from corpus_sources import SMALL, articles, json_lines, run_stage, zst
from transformers import AutoTokenizer

from deepseemoe.corpus.documents import UNLABELLED, domains_of
from deepseemoe.corpus.planted import PLANTED_DOMAINS
from deepseemoe.names import SPLITS
from deepseemoe.runtime.tables import read_manifest


@pytest.fixture
def packed(source, tmp_path):
    """A run over two files of 150 articles each, with some bad lines and doubles."""
    bad = b'{"text": \n{"id": "none"}\n{"text": " "}\n{"text": "caf\xe9"}\n'
    source("a.jsonl.zst", zst(json_lines(articles(75)), json_lines(articles(75, start=75)) + bad))
    path = source("b.jsonl", json_lines(articles(150, start=130)))
    return run_stage(tmp_path / "run", source="files", paths=[str(path.parent)])


def test_every_split_holds_exactly_the_tokens_asked_for(packed):
    for split, n_tokens in SMALL["n_tokens"].items():
        sizes = [shard.token_ids_SN.shape for shard in packed.shards[split]]
        assert sum(s * n for s, n in sizes) == n_tokens
        assert {n for _, n in sizes} == {SMALL["sequence_length"]}
        in_table = sum(row["n_tokens"] for row in packed.rows if row["split"] == split)
        assert in_table == n_tokens


def test_no_document_is_in_two_splits(packed):
    found = {split: set(packed.tokens(split, "doc_ids_SN")) for split in SPLITS}
    assert not found["train"] & found["test"]
    assert not found["train"] & found["select"]
    assert not found["select"] & found["test"]
    for split, doc_ids in found.items():
        assert doc_ids == {row["doc_id"] for row in packed.rows if row["split"] == split}


def test_doc_ids_count_the_kept_documents(packed):
    kept = [row["doc_id"] for row in packed.rows if row["reason"] == "kept"]
    assert kept == list(range(len(kept)))
    assert all(row["doc_id"] is None for row in packed.rows if row["reason"] != "kept")


def test_shards_hold_the_text_of_their_documents(packed):
    tokenizer = AutoTokenizer.from_pretrained(packed.folder / "tokenizer")
    by_name = {record["id"]: record for record in articles(280)}
    rows = {row["doc_id"]: row for row in packed.rows if row["doc_id"] is not None}
    for split in SPLITS:
        token_ids = np.array(packed.tokens(split))
        doc_ids = np.array(packed.tokens(split, "doc_ids_SN"))
        for doc_id in np.unique(doc_ids):
            mine = token_ids[doc_ids == doc_id]
            record = by_name[rows[doc_id]["name"]]
            assert mine[0] == tokenizer.bos_token_id
            assert len(mine) == rows[doc_id]["n_tokens"]
            assert record["domain"] == rows[doc_id]["domain"]
            is_last = doc_id == doc_ids[-1]
            text = tokenizer.decode(mine[1:])
            assert record["text"].startswith(text) if is_last else record["text"] == text


def test_every_document_that_was_read_has_its_reason(source, tmp_path):
    bad = b'{"text": \n{"id": "none"}\n{"text": " "}\n{"text": "caf\xe9"}\n'
    source("a.jsonl", json_lines(articles(100)) + bad)
    path = source("b.jsonl", json_lines(articles(100, start=90)))
    with pytest.raises(ValueError, match="the source ended before its splits were full") as caught:
        run_stage(
            tmp_path / "run",
            source="files",
            paths=[str(path.parent)],
            domains=["even"],
            n_tokens={"train": 51_200, "select": 12_800, "test": 25_600},
        )
    # 190 articles, 10 of them twice; half of all are even, and domains are looked at first.
    counts = "204 documents read: kept 95, broken_json 1, bad_encoding 1, no_text 1, empty 1, "
    assert counts + "domain 100, duplicate 5" in str(caught.value)


def test_a_second_run_gives_the_same_bytes(packed, tmp_path):
    again = run_stage(tmp_path / "again", source="files", paths=[str(tmp_path / "source")])
    files = [path.relative_to(packed.folder) for path in packed.folder.rglob("*") if path.is_file()]
    assert len(files) > 12
    for file in files:
        assert (packed.folder / file).read_bytes() == (again.folder / file).read_bytes(), file


def test_another_seed_changes_the_order_and_no_split(packed, tmp_path):
    other = run_stage(tmp_path / "other", seed=1, source="files", paths=[str(tmp_path / "source")])
    first, second = (
        {row["text_hash"]: row["split"] for row in run.rows if row["split"]}
        for run in (packed, other)
    )
    assert list(first) != list(second)
    both = first.keys() & second.keys()
    assert both
    assert {key: first[key] for key in both} == {key: second[key] for key in both}


def test_many_files_are_shuffled_the_same_way_every_time(source, tmp_path):
    for number in range(25):
        path = source(f"{number:02d}.jsonl", json_lines(articles(12, start=12 * number)))
    config = {"source": "files", "paths": [str(path.parent)], "shuffle_buffer": 40}
    first, second = (run_stage(tmp_path / name, **config).rows for name in ("one", "two"))
    assert first == second
    assert len({row["file"] for row in first[:20]}) > 5


def test_the_advice_on_too_little_text_works(source, tmp_path):
    path = source("a.jsonl", json_lines(articles(400)))
    config = {"source": "files", "paths": [str(path)]}
    asked = {"train": 51_200, "select": 12_800, "test": 25_600}
    with pytest.raises(ValueError, match="train has .* of 51200 tokens") as caught:
        run_stage(tmp_path / "short", n_tokens=asked, **config)
    found = re.search(
        r"write n_tokens: {train: (\d+), select: (\d+), test: (\d+)}$", str(caught.value)
    )
    advised = dict(zip(SPLITS, map(int, found.groups()), strict=True))
    rows = run_stage(tmp_path / "advised", n_tokens=advised, **config).rows
    assert sum(row["n_tokens"] for row in rows) == sum(advised.values())


def test_a_source_of_a_few_words_says_so(source, tmp_path):
    path = source("a.jsonl", b'{"text": "few words"}\n')
    with pytest.raises(ValueError, match="name more text, or write a smaller sequence_length"):
        run_stage(tmp_path / "run", source="files", paths=[str(path)])
    assert not (tmp_path / "run" / "documents.parquet").exists()


def test_max_rows_limits_what_is_read(source, tmp_path):
    path = source("a.jsonl", json_lines(articles(400)))
    config = {"n_tokens": {"train": 51_200, "select": 12_800, "test": 25_600}}
    with pytest.raises(ValueError, match=r"\(30 documents read: kept 30\)"):
        run_stage(
            tmp_path / "run",
            source="files",
            paths=[str(path)],
            filters={"max_rows": 30},
            **config,
        )


def test_max_chars_mean_is_taken_file_by_file(source, tmp_path):
    source("short.jsonl", json_lines([{"text": f"{n:04d}" * (1 + n % 2)} for n in range(40)]))
    path = source(
        "long.jsonl", json_lines([{"text": f"{n:04d}" * (20 + n % 2)} for n in range(40)])
    )
    with pytest.raises(ValueError, match="kept 40, too_long 40"):
        run_stage(
            tmp_path / "run",
            source="files",
            paths=[str(path.parent)],
            filters={"max_chars": "mean"},
            n_tokens={"train": 51_200, "select": 12_800, "test": 25_600},
        )


def test_a_damaged_file_ends_the_run_and_leaves_no_table(source, tmp_path):
    source("a.jsonl", json_lines(articles(20)))
    path = source("b.jsonl.zst", zst(json_lines(articles(90, start=20)))[:-3])
    with pytest.raises(ValueError, match=r"b\.jsonl\.zst: damaged or cut zst data"):
        run_stage(tmp_path / "run", source="files", paths=[str(path.parent)])
    assert not (tmp_path / "run" / "documents.parquet").exists()


def test_planted_documents_of_one_domain_fill_the_splits(tmp_path):
    packed = run_stage(tmp_path / "run", source="planted", domains=["law"])
    domains = domains_of(packed.folder / "documents.parquet")
    assert domains.names == ("law",)
    assert not domains.domain_of_doc.any()
    assert {row["reason"] for row in packed.rows} == {"kept", "domain", "split_full"}


@pytest.mark.parametrize("origin", ["planted", "embedded"])
def test_what_a_made_source_cannot_do_is_an_error_at_once(tmp_path, origin):
    with pytest.raises(ValueError, match=f"source {origin} has no cod; it has "):
        run_stage(tmp_path / "run", source=origin, domains=["cod"])
    with pytest.raises(ValueError, match=f"source {origin} has none; write a number"):
        run_stage(tmp_path / "run", source=origin, filters={"max_chars": "mean"})


def test_domains_of_gives_each_document_its_domain(packed):
    domains = domains_of(packed.folder / "documents.parquet")
    assert domains.names == ("even", "odd")
    kept = [row["domain"] for row in packed.rows if row["reason"] == "kept"]
    assert [domains.names[index] for index in domains.domain_of_doc] == kept


def test_documents_without_a_label_are_unlabelled(source, tmp_path):
    path = source("a.jsonl", json_lines([{"text": one["text"]} for one in articles(300)]))
    packed = run_stage(tmp_path / "run", source="files", paths=[str(path)])
    assert domains_of(packed.folder / "documents.parquet").names == (UNLABELLED,)
    assert {row["domain"] for row in packed.rows} == {None}


def test_the_manifest_says_what_made_the_table(tmp_path):
    packed = run_stage(tmp_path / "run", seed=3, source="planted")
    manifest = read_manifest(packed.folder / "documents.parquet")
    assert manifest["seed"] == 3
    assert manifest["config"]["source"] == "planted"
    counts = Counter(row["domain"] for row in packed.rows)
    assert set(counts) <= set(PLANTED_DOMAINS)
