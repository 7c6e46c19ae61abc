"""The tools of other tests: brains are as right as they claim, the server counts what it saw."""

import asyncio
import json
from importlib.resources import files
from string import Template

import llm_faults as faults
import numpy as np
import openai
import pytest
from llm_brains import Brain, named, sections, wanted
from llm_rules import find
from llm_server import Server
from llm_texts import RULES, example_rows, make_text

from deepseemoe.features.halves import is_explaining


@pytest.fixture(scope="module")
def rows():
    return example_rows(make_text(n_documents=600), is_explaining)


def ask(brain, name, texts, **blanks):
    """Return a brain's answer to one of our prompts."""
    prompt = files("deepseemoe.labels").joinpath("prompts", f"{name}.txt").read_text("utf-8")
    blanks = {"n_texts": len(texts), "zeros": ", ".join("0" * len(texts)), **blanks}
    numbered = "\n".join(f"{n + 1}. {text}" for n, text in enumerate(texts))
    return json.loads(brain(Template(prompt).substitute(texts=numbered, **blanks)))


def passage(row, *, marks=True):
    """Return a context on one line, as prompts show it."""
    pieces = zip(row["tokens"], row["activations"], strict=True)
    return "".join(f"«{text}»" if marks and z > 0 else text for text, z in pieces).strip()


def is_positive(row):
    return row["group"] == "top" or row["group"].startswith("q")


def of(rows, feature, half):
    return [row for row in rows if row["feature"] == feature and row["half"] == half]


def described(brain, rows, feature):
    shown = [row for row in of(rows, feature, "explain") if is_positive(row)][:20]
    return ask(brain, "explain", [passage(row) for row in shown], near_misses="")["label"]


def test_each_rule_can_be_read_from_its_words():
    assert [find(f"Look for\n\n{rule.label}\n\nBelow") for rule in RULES] == list(RULES)
    assert find("Look for the cat") is None


def test_an_oracle_names_every_rule_and_a_shuffled_one_none(rows):
    told = [described(named("oracle"), rows, feature) for feature in range(len(RULES))]
    assert told == [rule.label for rule in RULES]
    others = [described(named("shuffled"), rows, feature) for feature in range(len(RULES))]
    assert sorted(others) == sorted(told)
    assert not any(one == other for one, other in zip(told, others, strict=True))


def test_a_lexical_brain_names_words_and_no_context(rows):
    told = [described(named("lexical"), rows, feature) for feature in range(len(RULES))]
    is_right = {kind: [] for kind in ("words", "bigram", "after")}
    for rule, label in zip(RULES, told, strict=True):
        if rule.kind in is_right:
            found = find(label)
            is_right[rule.kind].append(set(rule.words) == set(found.words) and bool(rule.words))
    assert all(is_right["words"])
    assert all(is_right["bigram"]), "the word is right, and what stands before it is left out"
    assert not any(is_right["after"])


@pytest.mark.parametrize("error", [0.0, 0.2, 0.5])
def test_a_noisy_brain_errs_as_often_as_it_says(rows, error):
    brain, right = Brain(RULES, error=error), []
    for feature, rule in enumerate(RULES):
        judged = of(rows, feature, "score")
        for start in range(0, len(judged), 5):
            block = judged[start : start + 5]
            texts = [passage(row, marks=False) for row in block]
            present = ask(brain, "detect", texts, label=rule.label)["present"]
            right += [p == is_positive(row) for p, row in zip(present, block, strict=True)]
    spread = (error * (1 - error) / len(right)) ** 0.5
    assert np.mean(right) == pytest.approx(1 - error, abs=3 * spread + 0.001)


def test_a_brain_tells_wrong_marks_an_intruder_and_where_a_token_fires(rows):
    brain, feature = named("oracle"), 1
    hits = [row for row in of(rows, feature, "score") if is_positive(row)][:4]
    other = next(row for row in of(rows, 7, "score") if is_positive(row))
    moved = {**hits[0], "activations": hits[0]["activations"][::-1]}
    texts = [passage(hits[1]), passage(moved), passage(other)]
    assert ask(brain, "fuzz", texts, label=RULES[1].label) == {"right": [1, 0, 0]}
    assert ask(brain, "route", texts, label=RULES[1].label) == {"likely": [4, 0, 0]}
    texts = [passage(hits[0]), passage(hits[1]), passage(other), passage(hits[2])]
    assert ask(brain, "intruder", texts) == {"intruder": 3}
    prompt = files("deepseemoe.labels").joinpath("prompts", "simulate.txt").read_text("utf-8")
    tokens = hits[0]["tokens"]
    blanks = {"label": RULES[1].label, "tokens": "\n".join(tokens), "n_tokens": len(tokens)}
    prompt = Template(prompt).substitute(blanks)
    on = [0.0 if digit == "0" else 1.0 for digit in brain(prompt).split()]
    assert on == [float(z > 0) for z in hits[0]["activations"]]
    assert len(brain.chances(prompt)) == 2 * len(tokens) - 1


def test_a_prompt_is_known_by_its_passages_and_its_example():
    prompt = 'A thing:\n\n1. a b\n2. «c» d\n\nIt was off in:\n\n1. e\n\nSay {"label": "x"}'
    assert [[one.words for one in run] for run in sections(prompt)] == [
        [["a", "b"], ["c", "d"]],
        [["e"]],
    ]
    assert wanted(prompt) == "label"
    assert named("oracle")("Are you there?") == "I do not know what you mean."


def test_groups_of_contexts_hold_what_they_say(rows):
    halves = {"explain": set(), "score": set()}
    for row in rows:
        halves[row["half"]].add(row["doc_id"])
        peak = row["activations"][row["peak"]]
        assert (peak > 0) == is_positive(row)
        assert is_positive(row) or not any(row["activations"])
    assert not halves["explain"] & halves["score"]
    assert {row["half"] for row in rows if row["group"] == "random"} == {"score"}


def test_a_server_counts_contents_answers_and_repeats():
    plan = {1: faults.CUT, 2: faults.busy(), 4: faults.PROSE}.get

    async def ask_all(server):
        async with openai.AsyncOpenAI(api_key="x", base_url=server.url, max_retries=0) as client:
            for text in "abbbcc":
                message = {"role": "user", "content": text}
                try:
                    await client.chat.completions.create(model="m", messages=[message])
                except openai.APIError:
                    continue

    with Server(lambda prompt: "yes", plan=lambda number, body: plan(number)) as server:
        asyncio.run(ask_all(server))
        assert [one.status for one in server.chats] == [200, 0, 429, 200, 200, 200]
        assert sorted(server.counts().values()) == [1, 2, 3]
        assert [one.number for one in server.repeated()] == [5], "a failed answer is no answer"
        assert server.keys == {"Bearer x"}
        assert server.stats()["most_busy"] == 1
