"""Tokens that a language model reads and writes to label features, and what they cost.

Half of the documents explain and the other half judge (`features.halves`), and contexts are taken
from each: those with the feature of one half are shown once, those of the other, and as many
without it, judged once. An upper bound: every feature of
the dictionary is described, unless `max_features` says less. Answers that have to be asked for
again are not in it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from deepseemoe.config import FeaturesConfig, RunConfig
from deepseemoe.features.contexts import n_positive, n_random
from deepseemoe.labels.forms import prompt
from deepseemoe.labels.llm import PER_PROMPT
from deepseemoe.plan.dictionaries import Shape
from deepseemoe.plan.figures import Figure

CHARACTERS = 4
"""Of a token of English, about."""

MARKS = 4
"""Tokens around a context: its number, and the marks of its active tokens."""

EXPLANATION, VERDICT = 80, 20
"""Tokens of an answer: a label with its reasons, and a list of five digits."""


class Prices(NamedTuple):
    """US dollars for a million tokens; None where nobody asked."""

    usd_per_million_in: float | None = None
    usd_per_million_out: float | None = None


class FeatureTokens(NamedTuple):
    """Tokens of one feature: prompts of both kinds, answers, and the calls for its score."""

    n_shown: int
    n_judged: int
    n_calls: int
    n_in: int
    n_out: int


def feature_tokens(run: RunConfig, answer_tokens: int = 0) -> FeatureTokens:
    """Return what one feature takes; `answer_tokens` of thought come with every answer."""
    config = run.features
    n_shown = min(run.labels.n_examples, n_positive(config))
    n_judged = n_positive(config) + n_random(config)
    n_calls = 1 + -(-n_judged // PER_PROMPT)
    context = context_tokens(config) + MARKS
    explain, detect = (_prompt_tokens(name) for name in ("explain", "detect"))
    n_in = explain + (n_calls - 1) * detect + (n_shown + n_judged) * context
    n_out = EXPLANATION + (n_calls - 1) * VERDICT + n_calls * answer_tokens
    return FeatureTokens(n_shown, n_judged, n_calls, n_in, n_out)


def context_tokens(config: FeaturesConfig) -> int:
    """Return the tokens of a context, at most."""
    return config.context_before + 1 + config.context_after


def _prompt_tokens(name: str) -> int:
    """Return the tokens of a prompt without its contexts, with a description of 12 words."""
    blanks = {"label": "w" * 60, "near_misses": "", "zeros": ", ".join("0" * PER_PROMPT)}
    return len(prompt(name, n_texts=PER_PROMPT, texts="", **blanks)) // CHARACTERS


def label_figures(
    run: RunConfig, shapes: Sequence[Shape], prices: Prices | None, answer_tokens: int = 0
) -> Iterator[Figure]:
    """Yield the tokens of all labels, and their price where one is given."""
    if run.labels.labeller == "offline":
        yield Figure("LLM tokens", 0, "tokens", "labeller: offline asks no language model")
        return
    one, most = feature_tokens(run, answer_tokens), run.labels.max_features
    n_features = sum(min(s.config.d_dict, most or s.config.d_dict) for s in shapes)
    n_each = context_tokens(run.features)
    contexts = f"({one.n_shown} shown + {one.n_judged} judged) × {n_each} tokens"
    how = f"{n_features:,} features × {one.n_in:,}: {contexts}, prompts of {one.n_calls} calls"
    yield Figure("prompts", n_features * one.n_in, "tokens", how, True)
    how = f"{n_features:,} features × {one.n_out:,}: a description and {one.n_calls - 1} verdicts"
    yield Figure("answers", n_features * one.n_out, "tokens", how, True)
    if prices and prices != Prices():
        yield _price(n_features, one, prices)


def _price(n_features: int, one: FeatureTokens, prices: Prices) -> Figure:
    each = prices.usd_per_million_in or 0, prices.usd_per_million_out or 0
    cost = n_features * (one.n_in * each[0] + one.n_out * each[1]) / 1e6
    how = f"${each[0]:g} for a million tokens in, ${each[1]:g} out"
    return Figure("price", cost, "USD", how, True)
