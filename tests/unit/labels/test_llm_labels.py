"""The language-model labeller and a local server: honest scores, counted failures, no repeats."""

import asyncio
import logging
import re
import threading

import numpy as np
import pytest
from llm_world import (
    KEY,
    Server,
    is_detection,
    make_config,
    oracle,
    passages,
    write_examples,
)

from deepseemoe.features.halves import is_explaining
from deepseemoe.labels.answers import FILE
from deepseemoe.labels.explanation import Explanation
from deepseemoe.labels.forms import Detections
from deepseemoe.labels.llm import Context, ContextTable, LlmLabeller, detect

FEATURES = range(3)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("DEEPSEEMOE_TEST_KEY", KEY)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return write_examples(tmp_path_factory.mktemp("examples") / "examples.parquet")


def run(answer, examples, cache, **changes):
    """Label all features with a server; return what it said and the server."""
    with Server(answer) as server:
        config = make_config(server, **changes)
        contexts = ContextTable(examples, FEATURES)
        labeller = LlmLabeller(config, contexts=contexts, cache=cache, seed=0)
        return labeller.label(FEATURES), server


def test_an_oracle_gets_a_perfect_score(examples, tmp_path):
    labelled, server = run(oracle, examples, tmp_path)
    assert [one.explanation.label for one in labelled] == ["word0", "word1", "word2"]
    assert {one.explanation.kind for one in labelled} == {"model"}
    assert {one.explanation.detail for one in labelled} == {"seen"}
    for one in labelled:
        assert one.score.balanced_accuracy == 1
        assert one.score.n_positive > 4 < one.score.n_negative
        assert 0.5 < one.score.lo < one.score.hi == 1
        assert one.score.n_failed == 0
    assert server.bodies[0]["temperature"] == 0


def test_explaining_and_judged_passages_come_from_different_documents(examples, tmp_path):
    _, server = run(oracle, examples, tmp_path)
    found = {True: set(), False: set()}
    for prompt in server.prompts:
        found[is_detection(prompt)] |= {int(n) for n in re.findall(r"doc(\d+)", prompt)}
    assert min(len(found[True]), len(found[False])) > 10
    assert is_explaining(np.array(sorted(found[False]))).all()
    assert not is_explaining(np.array(sorted(found[True]))).any()


def test_judged_passages_carry_no_marks_and_are_five_a_prompt(examples, tmp_path):
    _, server = run(oracle, examples, tmp_path)
    detections = [prompt for prompt in server.prompts if is_detection(prompt)]
    assert not any("«" in prompt for prompt in detections)
    assert max(len(passages(prompt)) for prompt in detections) == 5
    explanations = [prompt for prompt in server.prompts if not is_detection(prompt)]
    assert all(re.findall(r"«(.*?)»", text) for text in passages(explanations[0]))


def test_a_labeller_sees_no_more_examples_than_asked_for(examples, tmp_path):
    _, server = run(oracle, examples, tmp_path, n_examples=3)
    shown = [passages(prompt) for prompt in server.prompts if not is_detection(prompt)]
    assert {len(texts) for texts in shown} == {3}


def test_unreadable_answers_are_asked_for_again(examples, tmp_path):
    plain, _ = run(oracle, examples, tmp_path / "plain")

    def once_junk(prompt, number):
        is_first = seen.setdefault(prompt, number) == number
        return "I would say: {present: yes" if is_first else oracle(prompt)

    seen = {}
    labelled, server = run(once_junk, examples, tmp_path / "junk")
    assert labelled == plain
    repeated = [body["messages"] for body in server.bodies if len(body["messages"]) == 3]
    assert len(repeated) == len(seen)
    assert "cannot be read" in repeated[0][2]["content"]


def test_verdicts_that_cannot_be_read_are_counted_and_change_no_score(examples, tmp_path):
    def junk(prompt, number):
        return "no idea" if is_detection(prompt) and "plain7 " in prompt else oracle(prompt)

    labelled, server = run(junk, examples, tmp_path)
    lost = {prompt for prompt in server.prompts if is_detection(prompt) and "plain7 " in prompt}
    assert sum(one.score.n_failed for one in labelled) == sum(len(passages(p)) for p in lost) > 0
    assert {one.score.balanced_accuracy for one in labelled} == {1.0}


def test_a_feature_without_a_description_stays_in_the_table_with_its_failures(examples, tmp_path):
    def mute(prompt, number):
        return "hm" if not is_detection(prompt) and "word1" in prompt else oracle(prompt)

    labelled, _ = run(mute, examples, tmp_path)
    assert [one.explanation.kind for one in labelled] == ["model", "failed", "model"]
    assert "no JSON object" in labelled[1].explanation.detail
    assert labelled[1].score.balanced_accuracy is None
    assert labelled[1].score.n_failed > 10


def test_a_server_that_answers_nothing_readable_is_an_error(examples, tmp_path):
    with pytest.raises(ValueError, match="described no feature"):
        run(lambda prompt, number: "hm", examples, tmp_path)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_errors_of_the_server_are_tried_again(examples, tmp_path, status):
    def stumbling(prompt, number):
        return status if number % 5 == 0 else oracle(prompt)

    labelled, _ = run(stumbling, examples, tmp_path, max_retries=4, concurrency=1)
    assert {one.score.balanced_accuracy for one in labelled} == {1.0}


def test_lasting_errors_of_the_server_are_counted_and_not_kept(examples, tmp_path):
    def broken(prompt, number):
        return 500 if is_detection(prompt) else oracle(prompt)

    labelled, _ = run(broken, examples, tmp_path, max_retries=0)
    assert all(one.score.balanced_accuracy is None and one.score.n_failed for one in labelled)
    again, server = run(oracle, examples, tmp_path, max_retries=0)
    assert {one.score.balanced_accuracy for one in again} == {1.0}
    assert all(map(is_detection, server.prompts))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_model_or_address_stops_the_run_in_one_line(examples, tmp_path, status):
    with pytest.raises(ValueError, match="check key, model and base_url") as error:
        run(lambda prompt, number: status, examples, tmp_path)
    assert "\n" not in str(error.value)
    assert KEY not in str(error.value)


def test_a_server_that_is_not_there_stops_the_run(examples, tmp_path):
    config = make_config(max_retries=0)
    labeller = LlmLabeller(
        config, contexts=ContextTable(examples, FEATURES), cache=tmp_path, seed=0
    )
    with pytest.raises(ValueError, match="no connection"):
        labeller.label(FEATURES)


def test_a_model_that_knows_no_temperature_is_asked_without(examples, tmp_path, monkeypatch):
    with Server(oracle) as server:
        plain = server.reply

        def strict(body, key):
            found = plain(body, key)
            return (400, "temperature is not supported") if "temperature" in body else found

        monkeypatch.setattr(server, "reply", strict)
        contexts = ContextTable(examples, FEATURES)
        labeller = LlmLabeller(make_config(server), contexts=contexts, cache=tmp_path, seed=0)
        assert {one.score.balanced_accuracy for one in labeller.label(FEATURES)} == {1.0}


def test_nothing_is_asked_twice_and_the_answers_stay_the_same(examples, tmp_path):
    first, server = run(oracle, examples, tmp_path)
    assert len(server.prompts) > 10
    again, server = run(oracle, examples, tmp_path)
    assert again == first
    assert not server.prompts


def test_a_run_killed_in_the_middle_of_a_line_asks_only_for_what_is_missing(examples, tmp_path):
    first, server = run(oracle, examples, tmp_path)
    kept = (tmp_path / FILE).read_bytes()
    lines = kept.splitlines(keepends=True)
    torn = lines[-2][:-1] + b"x" * 5000  # longer than what will be written over it
    (tmp_path / FILE).write_bytes(b"".join(lines[:-2]) + torn)
    again, server = run(oracle, examples, tmp_path)
    assert again == first
    assert len(server.prompts) == 2
    assert sorted((tmp_path / FILE).read_bytes().splitlines(keepends=True)) == sorted(lines)


def test_the_key_is_sent_and_never_kept_or_logged(examples, tmp_path, caplog):
    with caplog.at_level(logging.DEBUG):
        _, server = run(oracle, examples, tmp_path)
    assert server.keys == {f"Bearer {KEY}"}
    assert KEY not in caplog.text
    assert KEY.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_missing_key_is_named_before_anything_is_asked(examples, tmp_path, monkeypatch):
    monkeypatch.delenv("DEEPSEEMOE_TEST_KEY")
    with pytest.raises(ValueError, match="DEEPSEEMOE_TEST_KEY is not set"):
        run(oracle, examples, tmp_path)


def test_no_more_requests_are_under_way_than_allowed(examples, tmp_path):
    together = threading.Barrier(3)

    def slow(prompt, number):
        if number in (3, 4, 5):  # three must be there at once, and a fourth must not
            together.wait(timeout=20)
        return oracle(prompt)

    _, server = run(slow, examples, tmp_path, concurrency=3)
    assert server.most_busy == 3


def test_a_scorer_that_errs_in_one_of_five_scores_four_of_five():
    rng = np.random.default_rng(0)
    contexts = [
        Context("score", "top" if n % 2 else "random", n, [" x"], [float(n % 2)])
        for n in range(2000)
    ]
    truth = iter(contexts)

    class Noisy:
        async def ask(self, prompt, form, *, n_texts):
            verdicts = [(next(truth).group == "top") ^ (rng.random() < 0.2) for _ in range(n_texts)]
            return Detections(present=verdicts)

    score = asyncio.run(detect(Noisy(), Explanation("x", "model", ""), contexts))
    assert score.balanced_accuracy == pytest.approx(0.8, abs=0.03)
    assert score.lo < 0.8 < score.hi
    assert score.hi - score.lo < 0.08
