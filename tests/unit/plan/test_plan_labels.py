"""Label tokens are those that the labeller's own prompts would take."""

import pytest

from deepseemoe.config import load_run
from deepseemoe.labels.asking.prompts import prompt
from deepseemoe.plan.dictionaries import shapes_of
from deepseemoe.plan.labels import MARKS, Prices, feature_tokens, label_figures

ASKED = load_run({"labels": {"labeller": "openai"}})


def figures(run, prices=None, **options):
    shapes = shapes_of(run, d_model=16)
    return {figure.name: figure for figure in label_figures(run, shapes, prices, **options)}


def test_an_offline_labeller_costs_no_tokens():
    assert figures(load_run({}))["LLM tokens"].value == 0


def test_a_feature_shows_half_of_its_contexts_and_judges_the_other_half():
    """10 of the top and 2 of each of 10 quantiles, and 20 at random, in halves by document."""
    one = feature_tokens(ASKED)
    assert (one.n_shown, one.n_judged, one.n_calls) == (15, 25, 6)


def test_the_labeller_is_shown_no_more_than_it_asks_for():
    few = load_run({"labels": {"labeller": "openai", "n_examples": 4}})
    assert feature_tokens(few).n_shown == 4


def test_tokens_are_those_of_the_prompts_that_are_sent():
    """At four characters a token, contexts of 33 tokens of text."""
    context = "x" * 4 * (33 + MARKS)
    shown = prompt("explain", n_texts=15, texts="\n".join([context] * 15))
    blanks = {"label": "twelve words of a description", "zeros": "0, 0, 0, 0, 0"}
    judged = prompt("detect", n_texts=5, texts="\n".join([context] * 5), **blanks)
    sent = (len(shown) + 5 * len(judged)) / 4
    assert feature_tokens(ASKED).n_in == pytest.approx(sent, rel=0.05)


def test_max_features_bounds_the_cost_of_each_dictionary():
    all_of_them = figures(ASKED)["prompts"].value
    few = ASKED.labels.model_copy(update={"max_features": 128})
    assert all_of_them == 8 * figures(ASKED.model_copy(update={"labels": few}))["prompts"].value


def test_the_price_follows_from_tokens_in_and_out():
    found = figures(ASKED, Prices(0.1, 0.4))
    tokens_in, tokens_out = found["prompts"].value, found["answers"].value
    assert found["price"].value == pytest.approx((0.1 * tokens_in + 0.4 * tokens_out) / 1e6)
    assert "price" not in figures(ASKED)


def test_thought_comes_with_every_answer():
    plain, thinking = figures(ASKED)["answers"], figures(ASKED, answer_tokens=500)["answers"]
    assert thinking.value - plain.value == 4 * 1024 * 6 * 500
