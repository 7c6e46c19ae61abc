"""Scorers of a language model: what they show, what is right, what failures do."""

import asyncio
import math

import numpy as np
import pytest
from context_world import context, feature_contexts
from fake_asker import WORD, FakeAsker, judge_all, passages

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.question import Unanswered
from deepseemoe.labels.contexts import FeatureContexts
from deepseemoe.labels.scorers import SCORERS
from deepseemoe.labels.scorers.embedding import auroc
from deepseemoe.labels.scorers.fuzzing import wrong_marks
from deepseemoe.labels.scorers.simulation import expected_digit

JUDGES = ("detection", "hard", "fuzzing")


def holds(label, text):
    return f" {label} " in f"{text} "


def marks(label, text):
    return f"« {label}»" in text


def oracle(question):
    if question.purpose == "intruder":
        texts = passages(question.prompt)
        return {"intruder": 1 + next(n for n, t in enumerate(texts) if f"« {WORD}»" not in t)}
    return judge_all(question, marks if question.purpose == "fuzzing" else holds)


def run(scorer, asker, contexts=None, *, label=WORD, seed=0, **changes):
    config = LabelsConfig(**changes)
    random = np.random.default_rng(seed)
    return asyncio.run(
        SCORERS[scorer](asker, label, contexts or feature_contexts(), config, random)
    )


@pytest.mark.parametrize("scorer", [*JUDGES, "intruder"])
def test_an_oracle_is_always_right(scorer):
    score = run(scorer, FakeAsker(oracle))
    assert score.balanced_accuracy == 1
    assert (score.status, score.reason, score.n_failed) == ("scored", "", 0)
    assert 0.5 < score.lo < score.hi == 1


@pytest.mark.parametrize("scorer", JUDGES)
def test_the_description_of_another_feature_is_worth_nothing(scorer):
    score = run(scorer, FakeAsker(oracle), label="giraffe")
    assert score.balanced_accuracy == 0.5


def test_against_near_misses_a_description_that_fits_both_is_worth_nothing():
    begins = FakeAsker(lambda question: judge_all(question, lambda label, text: label in text))
    contexts = feature_contexts(near="zebras")
    assert run("detection", begins, contexts).balanced_accuracy == 1
    assert run("hard", begins, contexts).balanced_accuracy == 0.5


@pytest.mark.parametrize("scorer", JUDGES)
@pytest.mark.parametrize("always", [True, False])
def test_a_judge_with_one_answer_scores_half(scorer, always):
    asker = FakeAsker(lambda question: judge_all(question, lambda *_: always))
    assert run(scorer, asker).balanced_accuracy == 0.5


@pytest.mark.parametrize("scorer", JUDGES)
def test_a_noisy_judge_scores_what_it_is_right_in(scorer):
    random = np.random.default_rng(0)
    decide = marks if scorer == "fuzzing" else holds

    def noisy(question):
        return judge_all(
            question, lambda label, text: decide(label, text) != (random.random() < 0.3)
        )

    contexts = feature_contexts(n=400)
    score = run(scorer, FakeAsker(noisy), contexts, n_judged=400)
    assert score.balanced_accuracy == pytest.approx(0.7, abs=3 * math.sqrt(0.21 / 400))
    assert score.lo < 0.7 < score.hi


def test_a_guess_at_the_intruder_scores_half():
    """One of five is right by chance, and a wrong pick accuses one of the four others."""
    random = np.random.default_rng(0)
    guess = FakeAsker(lambda question: {"intruder": int(random.integers(1, 6))})
    score = run("intruder", guess, feature_contexts(n=2000), n_judged=2000)
    assert score.balanced_accuracy == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("scorer", [*JUDGES, "intruder"])
def test_failures_are_counted_and_change_no_rate(scorer):
    count = iter(range(10_000))

    def unreliable(question):
        if next(count) % 2:
            return Unanswered("unreadable", "no JSON")
        return oracle(question)

    score = run(scorer, FakeAsker(unreliable))
    assert score.balanced_accuracy == 1
    assert score.n_failed == pytest.approx(score.n_positive + score.n_negative, abs=5)
    assert score.reason == f"unreadable {score.n_failed}"


def test_a_judge_that_never_answers_gives_no_score():
    score = run("detection", FakeAsker(lambda question: Unanswered("refused", "no")))
    assert (score.status, score.balanced_accuracy, score.n_failed) == ("failed", None, 40)
    assert score.reason == "refused 40"


@pytest.mark.parametrize("scorer", [*SCORERS])
def test_a_feature_without_held_out_contexts_has_a_status(scorer):
    empty = FeatureContexts([], [], [], [], [])
    score = run(scorer, FakeAsker(oracle), empty)
    assert (score.status, score.balanced_accuracy) == ("few_contexts", None)
    assert score.reason


def test_judged_passages_are_held_out_and_carry_no_marks():
    asker, contexts = FakeAsker(oracle), feature_contexts()
    run("detection", asker, contexts)
    seen = {text for question in asker.questions for text in passages(question.prompt)}
    assert seen == {one.text for one in [*contexts.active, *contexts.random]}
    assert not any("«" in text for text in seen)
    assert {len(passages(question.prompt)) for question in asker.questions} == {5}


def test_fuzzing_shows_contexts_of_the_feature_alone_with_equal_marks():
    asker, contexts = FakeAsker(oracle), feature_contexts()
    run("fuzzing", asker, contexts)
    texts = [text for question in asker.questions for text in passages(question.prompt)]
    assert len(texts) == 20
    assert all(text.count("«") == 1 for text in texts)
    assert {text.replace("«", "").replace("»", "") for text in texts} <= {
        one.text for one in contexts.active
    }


def test_wrong_marks_stand_where_the_feature_is_off():
    one = context("top", 1, word="zebra")
    for seed in range(20):
        marked = wrong_marks(one, np.random.default_rng(seed), n_marks=1)
        assert sum(marked) == 1
        assert not marked[6]
    everywhere = one._replace(activations=[1.0] * 12)
    assert wrong_marks(everywhere, np.random.default_rng(0), n_marks=1) == []


def test_positives_come_from_all_quantiles():
    asker, contexts = FakeAsker(oracle), feature_contexts(n=40)
    run("detection", asker, contexts, n_judged=11)
    seen = {text for question in asker.questions for text in passages(question.prompt)}
    groups = [one.group for one in contexts.active if one.text in seen]
    assert len(set(groups)) == 11


def test_an_embedding_of_the_right_word_ranks_its_contexts_first():
    def vectors(texts):
        return [[1.0, 10.0 * (WORD in text)] for text in texts]

    score = run("embedding", FakeAsker(oracle, vectors=vectors))
    assert (score.auroc, score.balanced_accuracy) == (1, 1)
    blind = run("embedding", FakeAsker(oracle, vectors=lambda texts: [[1.0, 0.0]] * len(texts)))
    assert blind.auroc == 0.5


def test_auroc_is_the_share_of_pairs_in_order():
    random = np.random.default_rng(0)
    values, truth = random.integers(0, 5, 60).astype(float), random.random(60) < 0.4
    pairs = values[truth][:, None] - values[~truth]
    assert auroc(values, truth) == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)


def test_a_perfect_simulation_correlates():
    def chances(prompt):
        lines = prompt.split("so far.\n\n")[1].split("\n\nAnswer")[0].split("\n")
        return [{"9" if WORD in line else "0": -0.01, "4": -5.0} for line in lines]

    score = run("simulation", FakeAsker(oracle, chances=chances))
    assert score.correlation > 0.9
    assert score.balanced_accuracy == 1


def test_without_log_probabilities_a_simulation_fails_by_name():
    score = run("simulation", FakeAsker(oracle))
    assert (score.status, score.correlation) == ("failed", None)
    assert score.reason.startswith("rejected")


def test_the_expected_digit_is_a_mean_over_digits():
    half = math.log(0.5)
    assert expected_digit({"2": half, " 4": half}) == 3
    assert expected_digit({"2": math.log(0.6), "x": math.log(0.4)}) == 2
    assert expected_digit({"x": math.log(0.6), "2": math.log(0.4)}) is None
    assert expected_digit({}) is None


def test_vectors_that_tell_nothing_score_half():
    blind = FakeAsker(oracle, vectors=lambda texts: [[1.0, 0.0]] * len(texts))
    scores = [run("embedding", blind, seed=seed).balanced_accuracy for seed in range(40)]
    assert np.mean(scores) == pytest.approx(0.5, abs=0.04)


def test_an_intruder_has_as_many_marks_as_the_others():
    values = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, *[0.0] * 6]
    own = [one._replace(activations=values) for one in feature_contexts().active]
    asker = FakeAsker(oracle_of_counts)
    run("intruder", asker, feature_contexts()._replace(active=own))
    counts = {text.count("«") for q in asker.questions for text in passages(q.prompt)}
    assert max(counts) <= 3
    random_ones = [
        text.count("«") for q in asker.questions for text in passages(q.prompt) if WORD not in text
    ]
    assert np.mean(random_ones) > 2


def oracle_of_counts(question):
    return {"intruder": 1}


@pytest.mark.parametrize("chances", [{"5": -9999.0}, {"5": 1000.0}, {"5": math.inf}, {"": 0.0}])
def test_odd_log_probabilities_end_in_a_digit_or_none(chances):
    assert expected_digit(chances) in (5, None)
