"""Tokens that describing and judging one feature may take: for the plan, and for the budget.

Upper bounds, but for answers that have to be asked for again.
"""

from typing import NamedTuple

from deepseemoe.config import FeaturesConfig, LabelsConfig
from deepseemoe.labels.asking.prompts import prompt
from deepseemoe.labels.asking.question import Usage
from deepseemoe.labels.scorers.intruder import SMALLEST
from deepseemoe.labels.scorers.simulation import N_CONTEXTS

CHARACTERS = 3
"""Of a token, at least: English has four, code and names fewer."""

MARKS = 6
"""Tokens around a passage: its number, and the marks of its active tokens."""

EXPLANATION = 80
"""Tokens of a label with its reasons."""

VERDICT = 4
"""Tokens of a verdict on one passage, and as many for the object around them."""

LABEL = "w" * 90
"""Stands for a description."""

FACTS = 2000
"""Characters of what is known of an expert beside its contexts."""


class Contexts(NamedTuple):
    """Contexts of a feature in one half of the documents, at most."""

    n_active: int
    n_near: int
    n_random: int

    @classmethod
    def of(cls, config: FeaturesConfig) -> "Contexts":
        """Return what the configuration collects."""
        n_active = config.n_top + config.n_quantiles * config.n_per_quantile
        return cls(n_active, config.n_near + config.n_neighbour, n_active)

    @classmethod
    def unbounded(cls) -> "Contexts":
        """Return more than any scorer asks for, where it is not known what was collected."""
        return cls(1 << 20, 1 << 20, 1 << 20)


def explain_usage(
    config: LabelsConfig, contexts: Contexts, *, context_tokens: int, answer_tokens: int
) -> Usage:
    """Return what the description of one feature takes, in one call."""
    n_shown = min(config.n_examples, contexts.n_active)
    n_texts = n_shown + min(n_shown // 2, contexts.n_near)
    frame = _frame(config, "explain", near_misses="") + _frame(config, "near_misses")
    return Usage(frame + n_texts * (context_tokens + MARKS), answer_tokens, 1)


def score_usage(
    config: LabelsConfig,
    contexts: Contexts,
    *,
    context_tokens: int,
    answer_tokens: int,
    scorers: tuple[str, ...] | None = None,
) -> Usage:
    """Return what all scores of one description take; `scorers` are by default those configured."""
    total = Usage()
    for scorer in config.scorers if scorers is None else scorers:
        n_texts, n_calls, name = _calls(config, contexts, scorer)
        each = context_tokens + MARKS
        if scorer == "embedding":
            total = total.plus(Usage(n_texts * each, 0, n_calls))
            continue
        if scorer == "simulation":
            answer, each = (
                2 * context_tokens,
                2 * context_tokens,
            )  # one token a line, one digit each
        else:
            answer = answer_tokens
        frame = _frame(config, name)
        total = total.plus(Usage(n_calls * frame + n_texts * each, n_calls * answer, n_calls))
    return total


def _calls(config: LabelsConfig, contexts: Contexts, scorer: str) -> tuple[int, int, str]:
    """Return a scorer's passages, its calls, and the name of its prompt."""
    n_active, most = contexts.n_active, config.n_judged
    if scorer == "fuzzing":
        n_texts = min(n_active, 2 * most)
        return n_texts, -(-n_texts // config.per_prompt), "fuzz"
    if scorer == "intruder":
        size = max(config.per_prompt, SMALLEST)
        n_sets = min(min(n_active, most) // (size - 1), contexts.n_random)
        return n_sets * size, n_sets, "intruder"
    if scorer == "simulation":
        n_texts = min(n_active, N_CONTEXTS) + min(contexts.n_random, N_CONTEXTS // 2)
        return n_texts, n_texts, "simulate"
    others = contexts.n_near if scorer == "hard" else contexts.n_random
    n_texts = min(n_active, most) + min(others, most)
    return n_texts, 1 if scorer == "embedding" else -(-n_texts // config.per_prompt), "detect"


def verdict_tokens(config: LabelsConfig) -> int:
    """Return the tokens of an answer with a verdict on each passage of a prompt."""
    return VERDICT * (config.per_prompt + 1)


def _frame(config: LabelsConfig, name: str, **blanks: str) -> int:
    """Return the tokens of a prompt without its passages."""
    zeros = ", ".join("0" * config.per_prompt)
    wanted = {"label": LABEL, "zeros": zeros, "n_texts": config.per_prompt, "n_tokens": 9}
    text = prompt(name, config.prompts, texts="", tokens="", **wanted, **blanks)
    return len(text) // CHARACTERS


def expert_usage(config: LabelsConfig, *, context_tokens: int, answer_tokens: int) -> Usage:
    """Return what the description of one expert and its score take."""
    n_shown = config.n_examples + config.n_examples // 2
    frame = _frame(config, "explain_expert", facts="w" * FACTS, near_misses="")
    explained = Usage(frame + n_shown * (context_tokens + MARKS), answer_tokens, 1)
    options = {"context_tokens": context_tokens, "answer_tokens": answer_tokens}
    return explained.plus(routing_usage(config, **options))


def routing_usage(config: LabelsConfig, *, context_tokens: int, answer_tokens: int) -> Usage:
    """Return what it takes to predict the routing of one expert's held-out tokens."""
    n_items = config.expert_items + config.expert_others
    n_calls = -(-n_items // config.per_prompt)
    n_in = n_calls * _frame(config, "route") + n_items * (context_tokens + MARKS)
    return Usage(n_in, n_calls * answer_tokens, n_calls)
