"""Rules: what they cover is what they say, and their words and JSON hold all of it."""

import json

import numpy as np
import pytest
from label_world import DOMAINS, ID, TEXTS, make_reading, planted_masks

from deepseemoe.labels.reading import NONE
from deepseemoe.labels.rules import (
    RULES as KINDS,
)
from deepseemoe.labels.rules import (
    AffixRule,
    AfterRule,
    BigramRule,
    BothRule,
    DomainRule,
    EitherRule,
    EveryRule,
    InsideRule,
    LengthRule,
    LineRule,
    NotRule,
    PositionRule,
    PreviousRule,
    RepeatedRule,
    ShapeRule,
    SinceRule,
    TokenRule,
    TrigramRule,
    WordRule,
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
FURTHER = {
    "2 tokens after “of”": PreviousRule((ID[" of"],), 2),
    "end of “the … king”": BigramRule(((ID[" the"], ID[" king"]),), 2),
    "end of “of the king”": TrigramRule(((ID[" of"], ID[" the"], ID[" king"]),)),
    "word “king”": WordRule(("king",)),
    "token that ends with “ing”": AffixRule("ends", "ing"),
    "token that contains “é”": AffixRule("contains", "é"),
    "right after token that begins with “im”": AffixRule("begins", "im", 1),
    "right after digits": ShapeRule("digits", 1),
    "token of 5 characters or more": LengthRule(5),
    "token of 2 to 3 characters": LengthRule(2, 3),
    "token 11 of a line or later": PositionRule(None, 10, "line"),
    "tokens 3 to 6 of a sentence": PositionRule(6, 2, "sentence"),
    "first token of a segment": PositionRule(1),
    "positions 1, 4, 7 … of a segment": EveryRule(3, 1),
    "inside round brackets": InsideRule("round brackets", "inner"),
    "in a line that begins with “def”": LineRule(("def",)),
    "token seen before in the segment": RepeatedRule("token"),
    "pair of tokens seen before in the segment": RepeatedRule("pair"),
    "from “def” until the end of the line": SinceRule("def", "line"),
    "token “def” in domain code": BothRule(TokenRule((ID[" def"],)), DomainRule(("code",))),
    "digits, but not right after “of”": BothRule(
        ShapeRule("digits"), NotRule(PreviousRule((ID[" of"],)))
    ),
    "token “def”; or digits": EitherRule(TokenRule((ID[" def"],)), ShapeRule("digits")),
}


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


def test_further_rules_are_put_into_words_and_into_json_and_back(reading):
    assert {rule.kind for rule in [*RULES, *FURTHER.values()]} | {"not"} == set(KINDS)
    for label, rule in FURTHER.items():
        assert rule.label(reading.vocabulary) == label
        again = from_json(json.loads(json.dumps(to_json(rule))))
        assert again == rule
        assert (again.applies(reading) == rule.applies(reading)).all()


def test_no_rule_looks_ahead_or_into_another_segment(reading):
    """What comes later is cut off; what came before the segment is another text."""
    opens = np.flatnonzero(reading.positions == 0)
    first, last = opens[20], opens[21] - 7
    part = reading.only(
        (np.arange(len(reading.doc_ids)) >= first) & (np.arange(len(reading.doc_ids)) < last)
    )
    for rule in [*RULES, *FURTHER.values()]:
        assert (rule.applies(part) == rule.applies(reading)[first:last]).all(), rule


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
    for rule in [*RULES, *FURTHER.values()]:
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
