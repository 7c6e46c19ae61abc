"""What a language model sees of an expert: passages with a token that it was sent, and without.

A passage is BEFORE tokens, the token between « and », and AFTER more, within its segment. To
describe from, of the explaining half: the tokens of highest gate weight, one a document, and others
spread over the quantiles of the weight; near misses are other occurrences of the same tokens, sent
elsewhere. To judge by, of the other half: `expert_items` tokens that were sent to it and
`expert_others` that were not, drawn at random.

Axes: T tokens.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.redact import redact
from deepseemoe.labels.contexts import Context
from deepseemoe.labels.cost import FACTS
from deepseemoe.labels.expert_tables import Found, share_at_least
from deepseemoe.labels.expert_text import RoutedText
from deepseemoe.labels.reading import BoolArray, IntArray
from deepseemoe.labels.rules import quoted
from deepseemoe.labels.scorers.judging import Item

BEFORE, AFTER = 24, 8

TOP_SHARE = 4
"""One in so many passages is of the highest weights."""

N_TOKENS, N_DOMAINS, N_FEATURES = 10, 3, 10
"""Tokens, domains and features that are told as facts."""


class Side(NamedTuple):
    """One half of the text, and what of it may be used."""

    text: RoutedText
    may_use_T: BoolArray

    @classmethod
    def of(cls, text: RoutedText, allowed: np.ndarray | None) -> "Side":
        """Return a half; `allowed` says which documents (N,) may be sent out, None all."""
        is_valid_T = text.reading.is_valid
        if allowed is None:
            return cls(text, is_valid_T)
        return cls(text, is_valid_T & allowed[text.reading.doc_ids])

    def sent(self, layer: int, expert: int) -> BoolArray:
        """Return (T,): the tokens that may be used and were sent to an expert."""
        return (self.text.of_layer(layer)[0] == expert).any(axis=1) & self.may_use_T

    def passage(self, place: int, group: str, redacted: Collection[str]) -> Context:
        """Return the passage around a token, which alone is active."""
        reading = self.text.reading
        start = reading.segment_starts[place]
        first = max(int(start), place - BEFORE)
        after = reading.segment_starts[place : place + AFTER + 1]
        last = place + int((after == start).sum())
        texts = [reading.vocabulary.texts[n] for n in reading.token_ids[first:last]]
        peak = [0.0] * len(texts)
        peak[place - first] = 1.0
        texts, peak = redact(texts, peak, tuple(redacted))
        return Context(group, int(reading.doc_ids[place]), texts, peak)


class ExpertContexts(NamedTuple):
    """The passages of an expert by what they are for."""

    shown: list[Context]
    """Sent to it, the highest weight first; explaining half"""
    near: list[Context]
    """Not sent to it; explaining half"""
    items: list[Item]
    """Of the other half, in random order"""

    @property
    def n_least(self) -> int:
        """Passages with it: to describe from, or to judge by, whichever are fewer."""
        return min(len(self.shown), sum(item.truth for item in self.items))


def contexts_of(
    layer: int,
    expert: int,
    *,
    explaining: Side,
    scoring: Side,
    config: LabelsConfig,
    random: np.random.Generator,
) -> ExpertContexts:
    """Return the passages of one expert; few where few tokens reach it."""
    shown = choose_routed(explaining, layer, expert, config.n_examples, random)
    near = choose_near(explaining, layer, expert, shown, len(shown) // 2, random)
    sent_T = scoring.sent(layer, expert)
    positives = _draw(np.flatnonzero(sent_T), config.expert_items, random)
    negatives = _draw(np.flatnonzero(scoring.may_use_T & ~sent_T), config.expert_others, random)
    places = random.permutation(np.concatenate([positives, negatives]))
    judged = [scoring.passage(int(place), "judged", config.redact) for place in places]
    return ExpertContexts(
        [explaining.passage(int(place), "routed", config.redact) for place in shown],
        [explaining.passage(int(place), "near", config.redact) for place in near],
        [
            Item(context.marked(), bool(sent_T[place]), context.doc_id)
            for place, context in zip(places, judged, strict=True)
        ],
    )


def choose_routed(
    side: Side, layer: int, expert: int, n: int, random: np.random.Generator
) -> IntArray:
    """Return at most n places that were sent to an expert, the highest weight first."""
    experts_TK, weights_TK = side.text.of_layer(layer)
    places = np.flatnonzero(side.sent(layer, expert))
    weight = np.where(experts_TK[places] == expert, weights_TK[places], 0).max(axis=1, initial=0)
    order = np.argsort(-weight.astype(np.float64), kind="stable")
    places = places[order]
    _, first = np.unique(side.text.reading.doc_ids[places], return_index=True)
    top = np.sort(first)[: n // TOP_SHARE]
    rest = np.setdiff1d(np.arange(len(places)), top)
    slices = np.array_split(rest, min(n - len(top), len(rest)) or 1)
    drawn = [random.choice(one) for one in slices if len(one)]
    return places[np.sort(np.concatenate([top, drawn])).astype(np.int64)]


def choose_near(
    side: Side, layer: int, expert: int, shown: IntArray, n: int, random: np.random.Generator
) -> IntArray:
    """Return at most n places that were not sent to it: of the same tokens first, else any."""
    token_ids = side.text.reading.token_ids
    others = np.flatnonzero(side.may_use_T & ~side.sent(layer, expert))
    others = random.permutation(others)
    same = others[np.isin(token_ids[others], token_ids[shown])]
    _, first = np.unique(token_ids[same], return_index=True)  # each token once before any twice
    same = np.concatenate([same[np.sort(first)], np.delete(same, first)])
    near = np.concatenate([same, np.setdiff1d(others[:n], same)])[:n]
    return near.astype(np.int64)


def preferred_tokens(side: Side, layer: int, expert: int) -> list[str]:
    """Return the tokens that were surely sent to it more than its share, the surest first."""
    vocabulary = side.text.reading.vocabulary.texts
    token_ids, sent_T = side.text.reading.token_ids, side.sent(layer, expert)
    n_V = np.bincount(token_ids[side.may_use_T], minlength=len(vocabulary))
    hits_V = np.bincount(token_ids[sent_T], minlength=len(vocabulary))
    share = hits_V.sum() / max(n_V.sum(), 1)
    seen = np.flatnonzero(hits_V)
    least = np.array([share_at_least(hits_V[n] / n_V[n], int(n_V[n])) for n in seen])
    order = np.argsort(-least, kind="stable")[:N_TOKENS]
    return [vocabulary[seen[n]] for n in order if least[n] > share]


def shares_of_domains(side: Side, layer: int, expert: int) -> list[tuple[str, float]]:
    """Return each domain with its lift, the share of its tokens over that of all; highest first."""
    reading, sent_T = side.text.reading, side.sent(layer, expert)
    share = sent_T.sum() / max(side.may_use_T.sum(), 1)
    found = []
    for place, name in enumerate(reading.domain_names):
        mine = side.may_use_T & (reading.domains == place)
        if mine.any() and share:
            found.append((name, float((sent_T & mine).sum() / mine.sum() / share)))
    return sorted(found, key=lambda one: -one[1])


def facts(side: Side, found: Found, names: Mapping[int, str], *, redacted: Collection[str]) -> str:
    """Return what is known of an expert beside its passages, one fact a line.

    Of the explaining half alone, but for the features: the map chose them on all documents.
    """
    layer, expert = found.layer, found.expert
    share = side.sent(layer, expert).sum() / max(int(side.may_use_T.sum()), 1)
    lines = [f"- It gets {share:.1%} of all tokens."]
    domains = [f"{name} (x{lift:.1f})" for name, lift in shares_of_domains(side, layer, expert)]
    if len(domains) > 1:
        listed = ", ".join(domains[:N_DOMAINS])
        lines.append(f"- Kinds of text of which it gets more than of others: {listed}.")
    if tokens := preferred_tokens(side, layer, expert):
        lines.append(f"- Tokens that it gets most: {quoted(tokens)}.")
    if called_by := [names[feature] for feature in found.called_by if feature in names]:
        listed = "; ".join(called_by[:N_FEATURES])
        lines.append(f"- What features of the text call it, the surest first: {listed}.")
    said, _ = redact(["\n".join(lines)], [0.0], tuple(redacted))
    return "".join(said)[:FACTS]


def _draw(places: IntArray, n: int, random: np.random.Generator) -> IntArray:
    return random.choice(places, min(n, len(places)), replace=False)
