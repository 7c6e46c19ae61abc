"""Lines, sentences, words, brackets and repetition are read from left to right."""

import numpy as np

from deepseemoe.labels.reading import Reading, Vocabulary
from deepseemoe.labels.rules import (
    BothRule,
    InsideRule,
    LineRule,
    PositionRule,
    RepeatedRule,
    SinceRule,
    TokenRule,
    WordRule,
)

PIECES = ["<s>", "The", " tok", "en", "izer", " (", "don", "'t", " see", ")", ".", " It", "\n"]


def read(pieces, starts=(0,)):
    texts = list(dict.fromkeys(pieces))
    positions = np.arange(len(pieces))
    for start in starts:
        positions[start:] = np.arange(len(pieces) - start)
    return Reading(
        vocabulary=Vocabulary(texts),
        domain_names=(),
        token_ids=np.array([texts.index(piece) for piece in pieces]),
        doc_ids=np.zeros(len(pieces), int),
        positions=positions,
        is_valid=positions > 0,
        domains=np.full(len(pieces), -1),
    )


def where(rule, reading, pieces):
    return [pieces[t] for t in np.flatnonzero(rule.applies(reading))]


def test_a_word_of_three_pieces_is_a_word_at_its_last_piece():
    reading = read(PIECES)
    assert where(WordRule(("tokenizer",)), reading, PIECES) == ["izer"]
    assert where(WordRule(("token",)), reading, PIECES) == ["en"]
    assert where(PositionRule(None, 1, "word"), reading, PIECES) == ["en", "izer"]


def test_brackets_count_by_their_edges_and_apostrophes_are_no_quotes():
    reading = read(PIECES)
    inner = ["don", "'t", " see"]
    assert where(InsideRule("round brackets", "inner"), reading, PIECES) == inner
    assert where(InsideRule("round brackets", "opening"), reading, PIECES) == [" (", *inner]
    assert where(InsideRule("round brackets", "closing"), reading, PIECES) == [*inner, ")"]
    assert where(InsideRule("round brackets", "outer"), reading, PIECES) == [" (", *inner, ")"]
    assert not where(InsideRule("single quotes", "outer"), reading, PIECES)


def test_brackets_within_brackets_close_the_inner_one_first():
    pieces = ["<s>", "(", "a", "(", "b", ")", "c", ")", "d", ")", "e"]
    inside = where(InsideRule("round brackets", "inner"), read(pieces), pieces)
    assert inside == ["a", "(", "b", ")", "c"]


def test_sentences_and_lines_begin_after_their_ends():
    pieces = ["<s>", "A", " b", ".", " C", " d", "\n", "#", " e", "\n", "f"]
    reading = read(pieces)
    assert where(PositionRule(1, 0, "sentence"), reading, pieces) == ["<s>", " C"]
    assert where(PositionRule(1, 0, "line"), reading, pieces) == ["<s>", "#", "f"]
    assert where(LineRule(("#",)), reading, pieces) == ["#", " e", "\n"]
    assert where(SinceRule("#", "line"), reading, pieces) == [" e", "\n"]
    assert where(SinceRule("c", "sentence"), reading, pieces) == pieces[5:]


def test_what_was_seen_before_counts_within_a_segment_only():
    pieces = ["<s>", "a", "b", "a", "b", "b", "<s>", "a", "b"]
    reading = read(pieces, starts=(0, 6))
    assert np.flatnonzero(RepeatedRule("token").applies(reading)).tolist() == [3, 4, 5]
    assert np.flatnonzero(RepeatedRule("pair").applies(reading)).tolist() == [4]
    assert np.flatnonzero(RepeatedRule("double").applies(reading)).tolist() == [5]
    both = BothRule(TokenRule((2,)), RepeatedRule("token"))
    assert np.flatnonzero(both.applies(reading)).tolist() == [4, 5]
