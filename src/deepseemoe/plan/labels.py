"""Tokens that a language model reads and writes to label features and experts, and what they cost.

An upper bound: every feature of the dictionary is described, unless `max_features` says less, and
each has as many contexts as are collected. Answers that have to be asked for again are not in it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from deepseemoe.config import FeaturesConfig, RunConfig
from deepseemoe.labels.asking.question import Usage
from deepseemoe.labels.cost import (
    EXPLANATION,
    Contexts,
    expert_usage,
    explain_usage,
    routing_usage,
    score_usage,
    verdict_tokens,
)
from deepseemoe.labels.scorers.names import WITHOUT_LABEL
from deepseemoe.plan.dictionaries import Shape
from deepseemoe.plan.figures import Figure
from deepseemoe.plan.network import Network


class Prices(NamedTuple):
    """US dollars for a million tokens; None where nobody asked."""

    usd_per_million_in: float | None = None
    usd_per_million_out: float | None = None


class Job(NamedTuple):
    """One kind of thing that is asked about: how many there are, and what each takes."""

    what: str
    n: int
    each: Usage


def label_jobs(
    run: RunConfig, network: Network, shapes: Sequence[Shape], answer_tokens: int = 0
) -> tuple[Job, ...]:
    """Return what is asked; `answer_tokens` of thought come with every answer."""
    labels, most = run.labels, run.labels.max_features
    sizes = [min(s.config.d_dict, most or s.config.d_dict) for s in shapes]
    options = {"context_tokens": context_tokens(run.features)}
    verdict = verdict_tokens(labels) + answer_tokens
    contexts = Contexts.of(run.features)
    explained = explain_usage(
        labels, contexts, answer_tokens=EXPLANATION + answer_tokens, **options
    )
    scored = score_usage(labels, contexts, answer_tokens=verdict, **options)
    swapped = tuple(name for name in labels.scorers if name not in WITHOUT_LABEL)
    null = score_usage(labels, contexts, answer_tokens=verdict, scorers=swapped, **options)
    expert = expert_usage(labels, answer_tokens=verdict, **options)
    n_null = sum(min(labels.null_features, size) for size in sizes)
    routed = routing_usage(labels, answer_tokens=verdict, **options)
    n_experts = [s.n_layers * network.n_experts for s in shapes]  # shared ones are not asked about
    n_swapped = sum(min(labels.null_features, n) for n in n_experts)
    return (
        Job("features", sum(sizes), explained.plus(scored)),
        Job("swapped descriptions", n_null, null),
        Job("experts", sum(n_experts), expert),
        Job("swapped experts", n_swapped, routed),
    )


def context_tokens(config: FeaturesConfig) -> int:
    """Return the tokens of a context, at most."""
    return config.context_before + 1 + config.context_after


def label_figures(
    run: RunConfig,
    network: Network,
    shapes: Sequence[Shape],
    prices: Prices | None,
    answer_tokens: int = 0,
) -> Iterator[Figure]:
    """Yield the tokens of all labels, their price where it is known, and what a budget reaches."""
    if run.labels.labeller == "offline":
        yield Figure("LLM tokens", 0, "tokens", "labeller: offline asks no language model")
        return
    jobs = label_jobs(run, network, shapes, answer_tokens)
    for job in jobs:
        how = (
            f"{job.n:,} × ({job.each.n_in:,} in + {job.each.n_out:,} out), {job.each.n_calls} calls"
        )
        yield Figure(job.what, job.n * job.each.n_tokens, "tokens", how, True)
    n_in, n_out = (
        sum(job.n * getattr(job.each, name) for job in jobs) for name in ("n_in", "n_out")
    )
    yield Figure("prompts", n_in, "tokens", f"{', '.join(run.labels.scorers)}", True)
    yield Figure("answers", n_out, "tokens", "descriptions and verdicts", True)
    prices = _prices(run, prices)
    if prices != Prices():
        each = prices.usd_per_million_in or 0, prices.usd_per_million_out or 0
        cost = (n_in * each[0] + n_out * each[1]) / 1e6
        how = f"${each[0]:g} for a million tokens in, ${each[1]:g} out"
        yield Figure("price", cost, "USD", how, True)
        yield from _reach(cost, run.labels.budget_usd, "USD")
    yield from _reach(n_in + n_out, run.labels.budget_tokens, "tokens")


def _prices(run: RunConfig, given: Prices | None) -> Prices:
    """Return the prices that were asked with, else those of the configuration."""
    config = Prices(run.labels.usd_per_million_in, run.labels.usd_per_million_out)
    return Prices(
        *(a if a is not None else b for a, b in zip(given or Prices(), config, strict=True))
    )


def _reach(cost: float, budget: float | None, unit: str) -> Iterator[Figure]:
    """Yield how far a budget reaches, where there is one."""
    if budget is not None and cost:
        how = f"reaches for {min(budget / cost, 1):.0%} of that, the most valuable features first"
        yield Figure("budget", budget, unit, how)
