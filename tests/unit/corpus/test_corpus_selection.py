"""Filters and splits."""

import numpy as np
import pytest

from deepseemoe.config.corpus import CorpusConfig
from deepseemoe.corpus.documents import REASONS, Document
from deepseemoe.corpus.selection import affordable, judge, sizes_of, split_ends, split_of
from deepseemoe.names import SPLITS

SPLIT_SIZES = {"train": 8 * 256, "select": 256, "test": 2 * 256}


def documents(n: int) -> list[Document]:
    return [Document(f"document {number}", str(number), "f", number) for number in range(n)]


def reason(document: Document, **config) -> str | None:
    return next(judge([document], CorpusConfig(n_tokens=SPLIT_SIZES, **config))).reason


@pytest.mark.parametrize(
    ("fields", "filters", "expected"),
    [
        ({}, {}, None),
        ({"text": "abc"}, {"min_chars": 4}, "too_short"),
        ({"text": "abcd"}, {"min_chars": 4}, None),
        ({"text": "abcd"}, {"max_chars": 3}, "too_long"),
        ({"text": "abcd"}, {"max_chars": 4}, None),
        ({"text": "abcd", "mean_chars": 3.9}, {"max_chars": "mean"}, "too_long"),
        ({"text": "abcd", "mean_chars": 4.0}, {"max_chars": "mean"}, None),
        ({"language_score": 0.6}, {"language": "en"}, "language"),
        ({"language_score": 0.65}, {"language": "en"}, None),
        ({}, {"language": "en"}, "language"),
        ({"language_score": float("nan")}, {"language": "en"}, "language"),
        ({"quality_score": 0.1}, {"min_quality_score": 0.2}, "quality"),
        ({}, {"min_quality_score": 0.2}, "quality"),
        ({"quality_score": 0.2}, {"min_quality_score": 0.2}, None),
        ({"problem": "broken_json", "text": ""}, {"min_chars": 4}, "broken_json"),
    ],
)
def test_each_filter_drops_for_its_own_reason(fields, filters, expected):
    document = Document(**{"text": "words", "name": "n", "file": "f", "row": 0, **fields})
    assert reason(document, filters=filters) == expected
    assert expected is None or expected in REASONS


def test_other_domains_are_dropped():
    law = Document("text", "n", "f", 0, "law")
    assert reason(law, domains=("law", "music")) is None
    assert reason(law._replace(domain="math"), domains=("law", "music")) == "domain"
    assert reason(law._replace(domain=None), domains=("law", "music")) == "domain"


def test_the_first_of_equal_texts_is_kept():
    twice = [*documents(3), *documents(3)]
    config = CorpusConfig(n_tokens=SPLIT_SIZES)
    assert [one.reason for one in judge(twice, config)] == [None] * 3 + ["duplicate"] * 3
    keeps = CorpusConfig(n_tokens=SPLIT_SIZES, filters={"deduplicate": False})
    assert [one.reason for one in judge(twice, keeps)] == [None] * 6


def test_a_filtered_document_does_not_make_a_later_one_a_duplicate():
    config = CorpusConfig(n_tokens=SPLIT_SIZES, filters={"min_quality_score": 0.5})
    low, high = (Document("same", "n", "f", 0, quality_score=score) for score in (0.1, 0.9))
    assert [one.reason for one in judge([low, high], config)] == ["quality", None]


def test_splits_hold_documents_in_proportion_to_their_tokens():
    config = CorpusConfig(n_tokens=SPLIT_SIZES)
    found = [one.split for one in judge(documents(11_000), config)]
    for split, expected in zip(SPLITS, (8000, 1000, 2000), strict=True):
        assert abs(found.count(split) - expected) < 4 * np.sqrt(expected)  # four standard errors


def test_a_split_depends_on_the_text_and_the_proportions_only():
    alone = {one.document.text: one.split for one in judge(documents(200), CorpusConfig())}
    sizes = {split: 4 * size for split, size in CorpusConfig().n_tokens}
    among_others = judge(documents(400)[::-1], CorpusConfig(n_tokens=sizes))
    found = {one.document.text: one.split for one in among_others}
    assert {text: found[text] for text in alone} == alone


def test_the_ends_of_splits_are_shares_of_tokens():
    ends = split_ends((2, 1, 1))
    assert ends == [0.5, 0.75]
    assert [split_of(share, ends) for share in (0.0, 0.49, 0.5, 0.74, 0.75, 0.999)] == [
        "train",
        "train",
        "select",
        "select",
        "test",
        "test",
    ]
    assert sizes_of(CorpusConfig(n_tokens=SPLIT_SIZES)) == tuple(SPLIT_SIZES.values())


@pytest.mark.parametrize("seed", range(20))
def test_affordable_sizes_are_filled_by_the_documents_and_nearly_the_largest(seed):
    rng = np.random.default_rng(seed)
    n_tokens = rng.integers(5, 200, 2000)
    shares = rng.random(2000)
    asked = (262_144, 16_384, 32_768)
    sizes = affordable(shares, n_tokens, asked, 32)
    split = np.searchsorted(split_ends(sizes), shares, side="right")
    found = np.bincount(split, n_tokens, minlength=3)
    assert all(size % 32 == 0 for size in sizes)
    assert all(found >= sizes)
    assert max(np.array(sizes) / found) > 0.95
    assert np.allclose(np.array(sizes) / sum(sizes), np.array(asked) / sum(asked), atol=0.003)


def test_too_little_text_for_one_sequence_affords_nothing():
    assert not all(affordable(np.array([0.5]), np.array([40]), (320, 32, 32), 32))
    assert not all(affordable(np.array([]), np.array([]), (320, 32, 32), 32))
