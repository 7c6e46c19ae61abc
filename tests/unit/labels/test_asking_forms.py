"""Answers are read tolerantly and validated strictly; prompts have no blanks left."""

import pytest

from deepseemoe.labels.asking.forms import Description, Detections, read_form
from deepseemoe.labels.asking.prompts import prompt

FIVE = {"n_texts": 5}


@pytest.mark.parametrize(
    "text",
    [
        '{"present": [1, 0, 0, 1, 1]}',
        'Sure!\n```json\n{"present": [1, 0, 0, 1, 1]}\n```',
        '<think>maybe {"present": [0, 0, 0, 0, 0]}?</think> {"present": [1,0,0,1,1]} Done.',
        '{"present": [true, false, false, true, true], "why": "…"}',
        '{broken {"present": ["1", "0", "0", "1", "1"]}',
    ],
)
def test_verdicts_are_found_in_whatever_surrounds_them(text):
    assert read_form(text, Detections, FIVE).present == [True, False, False, True, True]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no JSON object"),
        ("[1, 0, 0, 1, 1]", "no JSON object"),
        ('{"present": [1, 0, 0]}', "3 entries for 5 passages"),
        ('{"present": [1, 0, 0, 1, 7]}', "present.4"),
        ('{"answer": [1, 0, 0, 1, 1]}', "present: Field required"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(text, problem):
    with pytest.raises(ValueError, match=problem):
        read_form(text, Detections, FIVE)


def test_descriptions_are_one_stripped_line_with_something_in_it():
    assert read_form('{"label": "  digits "}', Description, {}).label == "digits"
    with pytest.raises(ValueError, match="label"):
        read_form('{"label": " "}', Description, {})


def test_prompts_have_all_their_blanks_filled():
    explain = prompt("explain", n_texts=2, texts="1. a$b\n2. «c»", near_misses="")
    assert "1. a$b\n2. «c»" in explain
    detect = prompt("detect", label="digits", n_texts=2, texts="1. a\n2. b", zeros="0, 0")
    assert '{"present": [0, 0]}' in detect
    assert "$n" not in explain + detect
    with pytest.raises(KeyError):
        prompt("detect", label="digits")
