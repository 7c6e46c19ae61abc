"""Rules: what they cover is what they say, and their words and JSON hold all of it."""

import json

import numpy as np
import pytest
from label_world import DOMAINS, ID, TEXTS, make_reading, planted_masks

from deepseemoe.labels.reading import NONE
from deepseemoe.labels.rules import (
    AfterRule,
    BigramRule,
    DomainRule,
    PositionRule,
    PreviousRule,
    ShapeRule,
    TokenRule,
    from_json,
    quoted,
    to_json,
)

RULES = [
    TokenRule((ID[" def"], ID[" class"])),
    PreviousRule((ID[" of"],)),
    BigramRule(((ID[" the"], ID[" king"]),)),
    AfterRule("import", 3),
    DomainRule(("code",)),
    ShapeRule("digits"),
    PositionRule(4),
]
LABELS = [
    "token “def”, “class”",
    "right after “of”",
    "end of “the king”",
    "after “import” (within 3 tokens)",
    "domain code",
    "digits",
    "first 4 tokens of a segment",
]


@pytest.fixture(scope="module")
def reading():
    return make_reading(n_tokens=6000)


@pytest.mark.parametrize("number", range(len(RULES)))
def test_rules_cover_what_plain_formulas_say(reading, number):
    covered = RULES[number].applies(reading) & reading.is_valid
    wanted = planted_masks(reading)[:, number]
    assert wanted.any()
    assert (covered == wanted).all()


@pytest.mark.parametrize("number", range(len(RULES)))
def test_rules_are_put_into_words_and_into_json_and_back(reading, number):
    assert RULES[number].label(reading.vocabulary) == LABELS[number]
    again = from_json(json.loads(json.dumps(to_json(RULES[number]))))
    assert again == RULES[number]


def test_rules_that_nothing_in_the_text_meets_cover_nothing(reading):
    for rule in (AfterRule("nowhere", 3), TokenRule(()), DomainRule(("nowhere",))):
        assert not rule.applies(reading).any()


def test_an_unknown_kind_of_rule_is_refused():
    with pytest.raises(ValueError, match="unknown kind of rule 'x'"):
        from_json({"kind": "x"})


def test_previous_tokens_stop_at_the_segment(reading):
    opens = reading.positions == 0
    assert (reading.previous[opens] == NONE).all()
    assert (reading.previous[~opens] == reading.token_ids[np.flatnonzero(~opens) - 1]).all()
    assert (reading.before(5, reading.token_ids)[reading.positions < 5] == NONE).all()


def test_half_of_the_documents_reads_as_it_does_in_the_whole_text(reading):
    chosen = reading.doc_ids % 2 == 0
    half = reading.only(chosen)
    for rule in RULES:
        assert (rule.applies(half) == rule.applies(reading)[chosen]).all()


def test_quoted_texts_are_one_line_and_named_once():
    assert quoted([" def", "def", "\n", "  ", '"']) == '“def”, “\\n”, “  ”, “"”'
    assert quoted(list("abcdefg")) == "“a”, “b”, “c”, “d”, “e” and 2 more"


def test_shapes_of_the_vocabulary(reading):
    def texts(shape):
        return {TEXTS[t] for t in np.unique(reading.token_ids[ShapeRule(shape).applies(reading)])}

    assert texts("digits") == {f" {n}" for n in range(10)}
    assert texts("capitalised") == {" Import"}
    assert texts("line break") == texts("spaces") == {"\n"}
    assert texts("non-ASCII") == {"é"}
    assert "," in texts("punctuation")
    assert len(DOMAINS) == 4
