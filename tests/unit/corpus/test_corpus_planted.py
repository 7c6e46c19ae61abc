"""The planted language keeps its word: what is stated of it holds."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from deepseemoe.corpus import planted

N_DOCUMENTS = 600


@pytest.fixture(scope="module")
def documents():
    return list(islice(planted.documents(0), N_DOCUMENTS))


@pytest.fixture(scope="module")
def classes(documents):
    """The class of each word, by document."""
    return [[planted.class_of_word(word) for word in one.text.split(" ")] for one in documents]


def test_every_word_has_one_class_and_a_fixed_place():
    words = planted.vocabulary()
    assert len(words) == len(set(words)) == len(planted.planted_classes())
    kinds = Counter(planted.class_of_word(word) for word in words)
    assert len(kinds) == 6 + 6 + 6 + 1
    assert {kinds[f"domain:{name}"] for name in planted.PLANTED_DOMAINS} == {16}
    assert {kinds[f"span:{name}"] for name in planted.PLANTED_TRIGGERS} == {6}
    assert {kinds[f"trigger:{name}"] for name in planted.PLANTED_TRIGGERS} == {1}
    assert kinds["filler"] == 24


def test_an_unknown_word_is_an_error():
    with pytest.raises(ValueError, match="the planted language has no word 'quark'"):
        planted.class_of_word("quark")


def test_the_seed_fixes_the_text(documents):
    assert list(islice(planted.documents(0), N_DOCUMENTS)) == documents
    assert next(planted.documents(1)).text != documents[0].text


def test_a_document_holds_words_of_its_own_domain_only(documents, classes):
    for document, found in zip(documents, classes, strict=True):
        of_domains = {name for name in found if name.startswith("domain:")}
        assert of_domains <= {f"domain:{document.domain}"}
    counts = Counter(document.domain for document in documents)
    expected = N_DOCUMENTS / len(planted.PLANTED_DOMAINS)
    assert all(
        abs(counts[name] - expected) < 5 * np.sqrt(expected) for name in planted.PLANTED_DOMAINS
    )


def test_each_trigger_is_followed_by_its_span_and_no_span_is_without(classes):
    least, most = planted.SPAN_WORDS
    lengths: Counter[int] = Counter()
    for found in classes:
        place = 0
        while place < len(found):
            kind, _, name = found[place].partition(":")
            assert kind != "span"  # every span word is counted with its trigger
            place += 1
            if kind == "trigger":
                start = place
                while place < len(found) and found[place] == f"span:{name}":
                    place += 1
                lengths[place - start] += 1
    assert set(lengths) == set(range(least, most + 1))
    expected = lengths.total() / len(lengths)
    assert all(abs(count - expected) < 5 * np.sqrt(expected) for count in lengths.values())


def test_shares_of_triggers_and_fillers_are_as_stated(classes):
    flat = [name.partition(":")[0] for found in classes for name in found]
    n_places = len(flat) - flat.count("span")  # a span belongs to the place of its trigger
    for kind, share in (("trigger", planted.TRIGGER_SHARE), ("filler", planted.FILLER_SHARE)):
        error = np.sqrt(share * (1 - share) / n_places)
        assert abs(flat.count(kind) / n_places - share) < 4 * error


def test_triggers_say_nothing_of_the_domain(documents, classes):
    table = np.zeros((6, 6))
    for document, found in zip(documents, classes, strict=True):
        for name in found:
            if name.startswith("trigger:"):
                row = planted.PLANTED_DOMAINS.index(document.domain)
                table[row, planted.PLANTED_TRIGGERS.index(name.removeprefix("trigger:"))] += 1
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    chi_square = ((table - expected) ** 2 / expected).sum()
    assert chi_square < 25 + 4 * np.sqrt(2 * 25)  # 25 degrees of freedom
