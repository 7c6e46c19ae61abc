"""Label tokens are those that the labeller's own prompts take."""

import asyncio

import numpy as np
import pytest

from deepseemoe.config import load_run
from deepseemoe.labels.asking.question import Usage
from deepseemoe.labels.contexts import Context, FeatureContexts
from deepseemoe.labels.cost import CHARACTERS, Contexts, explain_usage, score_usage
from deepseemoe.labels.llm import explain
from deepseemoe.labels.scorers import SCORERS
from deepseemoe.plan.dictionaries import shapes_of
from deepseemoe.plan.labels import Prices, label_figures, label_jobs

ASKED = load_run({"labels": {"labeller": "openai"}})
TOKENS = 33


class Network:
    """The sizes of a model that labels depend on."""

    n_experts, n_shared_experts = 8, 1


def figures(run, prices=None, **options):
    shapes = shapes_of(run, d_model=16)
    return {one.name: one for one in label_figures(run, Network(), shapes, prices, **options)}


def jobs(run, **options):
    found = label_jobs(run, Network(), shapes_of(run, d_model=16), **options)
    return {job.what: job for job in found}


def changed(**keys):
    return load_run({"labels": {"labeller": "openai", **keys}})


def test_an_offline_labeller_costs_no_tokens():
    assert figures(load_run({}))["LLM tokens"].value == 0


class Counting:
    """An asker that counts what is asked, in tokens of `CHARACTERS` letters."""

    def __init__(self):
        self.usage = Usage()

    async def ask(self, question):
        self.usage = self.usage.plus(Usage(len(question.prompt) // CHARACTERS, 0, 1))
        fields = {
            "present": [1] * question.context.get("n_texts", 0),
            "right": [1] * question.context.get("n_texts", 0),
            "intruder": 1,
            "label": "x",
        }
        return question.form.model_validate(
            {name: fields[name] for name in question.form.model_fields if name in fields},
            context=dict(question.context),
        )


def contexts_of(counts):
    """Return as many contexts of 33 tokens as a run collects."""

    def some(group, n, first):
        values = [0.0] * 24 + [1.0] + [0.0] * 8
        return [Context(f"{group}{k}", first + k, ["abc"] * TOKENS, values) for k in range(n)]

    return FeatureContexts(
        some("q", counts.n_active, 0),
        some("near", counts.n_near, 100),
        some("q", counts.n_active, 200),
        some("random", counts.n_random, 300),
        some("near", counts.n_near, 400),
    )


@pytest.mark.parametrize("scorer", ["detection", "hard", "fuzzing", "intruder"])
def test_calls_and_tokens_of_a_scorer_are_those_that_are_sent(scorer):
    counts = Contexts.of(ASKED.features)
    asker, random = Counting(), np.random.default_rng(0)
    asyncio.run(SCORERS[scorer](asker, "l" * 90, contexts_of(counts), ASKED.labels, random))
    options = {"context_tokens": TOKENS, "answer_tokens": 0, "scorers": (scorer,)}
    planned = score_usage(ASKED.labels, counts, **options)
    assert planned.n_calls == asker.usage.n_calls
    assert asker.usage.n_in <= planned.n_in < 1.25 * asker.usage.n_in


def test_tokens_of_an_explanation_are_those_that_are_sent():
    counts, asker = Contexts.of(ASKED.features), Counting()
    asyncio.run(explain(asker, contexts_of(counts), ASKED.labels))
    planned = explain_usage(ASKED.labels, counts, context_tokens=TOKENS, answer_tokens=0)
    assert planned.n_calls == asker.usage.n_calls == 1
    assert asker.usage.n_in <= planned.n_in < 1.25 * asker.usage.n_in


def test_more_examples_than_are_collected_cost_nothing():
    assert jobs(changed(n_examples=500))["features"] == jobs(changed(n_examples=50))["features"]


def test_max_features_bounds_the_cost_of_each_dictionary():
    every, few = jobs(ASKED)["features"], jobs(changed(max_features=128))["features"]
    assert every.n == 8 * few.n
    assert every.each == few.each


def test_the_null_judges_some_features_again_without_the_intruder():
    one = jobs(changed(null_features=10))
    assert one["swapped descriptions"].n == 4 * 10
    calls = one["features"].each.n_calls, one["swapped descriptions"].each.n_calls
    n_intruders = 20 // 4
    assert calls[0] - calls[1] == 1 + n_intruders


def test_every_expert_of_every_window_is_described_shared_ones_too():
    assert jobs(ASKED)["experts"].n == 2 * 2 * 2 * 8
    assert jobs(ASKED)["experts"].each.n_calls == 1 + 100 // 5
    assert jobs(ASKED)["swapped experts"].n == 2 * 2 * 2 * 8
    assert jobs(ASKED)["swapped experts"].each.n_calls == 100 // 5


def test_the_price_follows_from_tokens_in_and_out():
    found = figures(ASKED, Prices(0.1, 0.4))
    tokens_in, tokens_out = found["prompts"].value, found["answers"].value
    assert found["price"].value == pytest.approx((0.1 * tokens_in + 0.4 * tokens_out) / 1e6)
    assert "price" not in figures(ASKED)


def test_prices_of_the_configuration_serve_where_none_are_given():
    run = changed(usd_per_million_in=0.1, usd_per_million_out=0.4)
    assert figures(run)["price"] == figures(ASKED, Prices(0.1, 0.4))["price"]
    assert figures(run, Prices(0.2, 0.4))["price"].value > figures(run)["price"].value


def test_a_budget_says_how_far_it_reaches():
    all_tokens = sum(figures(ASKED)[name].value for name in ("prompts", "answers"))
    told = figures(changed(budget_tokens=int(all_tokens // 4)))["budget"].how
    assert "25%" in told


def test_thought_comes_with_every_answer():
    plain, thinking = figures(ASKED)["answers"], figures(ASKED, answer_tokens=500)["answers"]
    n_calls = sum(job.n * job.each.n_calls for job in jobs(ASKED).values())
    assert thinking.value - plain.value == 500 * n_calls
