"""Answers are read tolerantly and validated strictly; prompts have no blanks left."""

import pytest

from deepseemoe.labels.asking.forms import (
    Description,
    Detections,
    Intruder,
    Likelihoods,
    Marks,
    json_schema,
    read_form,
)
from deepseemoe.labels.asking.prompts import NAMES, prompt, prompt_versions

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


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [
        (Marks, '{"right": [1, 0, 0, 1, true]}', '{"right": [1]}'),
        (Likelihoods, '{"likely": [0, 1, 2, 3, 4]}', '{"likely": [0, 1, 2, 3, 5]}'),
        (Likelihoods, '{"likely": [0, 1, 2, 3, "4"]}', '{"likely": [0, 1, 2, 3]}'),
        (Intruder, '{"intruder": 5}', '{"intruder": 6}'),
        (Intruder, '{"intruder": "1"}', '{"intruder": 0}'),
    ],
)
def test_each_form_takes_what_fits_and_nothing_else(form, right, wrong):
    assert isinstance(read_form(right, form, FIVE), form)
    with pytest.raises(ValueError, match="right|likely|intruder"):
        read_form(wrong, form, FIVE)


def test_a_label_of_several_lines_becomes_one():
    text = '{"label": "words\\n about   law"}'
    assert read_form(text, Description, {}).label == "words about law"


def test_schemas_are_strict_and_have_an_entry_for_each_passage():
    bits = {"type": "array", "items": {"type": "integer", "enum": [0, 1]}}
    assert json_schema(Detections, FIVE) == {
        "type": "object",
        "properties": {"present": {**bits, "minItems": 5, "maxItems": 5}},
        "required": ["present"],
        "additionalProperties": False,
    }
    likely = json_schema(Likelihoods, FIVE)["properties"]["likely"]
    assert likely["items"] == {"type": "integer", "enum": [0, 1, 2, 3, 4]}
    intruder = json_schema(Intruder, FIVE)["properties"]["intruder"]
    assert intruder == {"type": "integer", "enum": [1, 2, 3, 4, 5]}
    described = json_schema(Description, {})
    assert list(described["properties"]) == described["required"] == ["reasons", "label"]
    assert set(map(str, described["properties"].values())) == {"{'type': 'string'}"}


def test_a_prompt_of_the_user_goes_before_ours(tmp_path):
    (tmp_path / "intruder.txt").write_text("Which of $n_texts? $texts $$5")
    assert prompt("intruder", tmp_path, n_texts=2, texts="1. a") == "Which of 2? 1. a $5"
    assert prompt("detect", tmp_path, label="x", n_texts=1, texts="", zeros="0").startswith(
        "A desc"
    )
    ours, own = prompt_versions(), prompt_versions(tmp_path)
    assert {name for name in NAMES if ours[name] != own[name]} == {"intruder"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Which? $texts", r"lacks \$n_texts"),
        ("$n_texts $texts $other", r"has \$other, which nothing fills"),
        ("$n_texts $texts 5 $ each", r"a \$ that opens no blank"),
    ],
)
def test_a_prompt_of_the_user_with_wrong_blanks_is_named(tmp_path, text, said):
    (tmp_path / "intruder.txt").write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        prompt("intruder", tmp_path, n_texts=2, texts="")
    assert str(tmp_path / "intruder.txt") in str(error.value)


def test_a_folder_of_prompts_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        prompt_versions(tmp_path / "none")
