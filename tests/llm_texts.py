"""A text in which features follow rules that can be said in words, and the tables made of it.

30 features, six of each kind of llm_rules, each with words of its own, and some that are too rare.
Documents are filler with occurrences and near misses strewn in; the tables are what the stage
`features` writes of such a text (examples.parquet, density.parquet, neighbours.parquet).
"""

import itertools
from typing import NamedTuple

import numpy as np
from llm_rules import DOMAINS, Rule

N_FEATURES = 30
KINDS = ("words", "bigram", "unless", "after", "domain")
N_FILLER = 300
BEFORE, AFTER = 14, 9
"""Words of a context on both sides of its peak"""

_SYLLABLES = ["ba", "de", "fi", "go", "lu", "ma", "ne", "pi", "ro", "su", "ta", "vo"]
_MADE = ["".join(one) for one in itertools.product(_SYLLABLES, repeat=3)]
FILLER = _MADE[:N_FILLER]
OWN = _MADE[N_FILLER:]


def _rules():
    own = iter(OWN)
    for feature in range(N_FEATURES):
        kind, nth = KINDS[feature % len(KINDS)], feature // len(KINDS)
        if kind == "domain":
            yield Rule(kind, before=list(DOMAINS)[nth])
        elif kind == "words":
            yield Rule(kind, tuple(itertools.islice(own, 1 + nth % 4)))
        elif kind == "after":
            yield Rule(kind, before=next(own))
        else:
            yield Rule(kind, (next(own),), next(own))


RULES = tuple(_rules())


class Text(NamedTuple):
    """A planted text: its words one after the other, and where each feature fires."""

    words: list[str]
    doc_ids: np.ndarray
    activations_TF: np.ndarray
    n_rare: int
    """Features at the end that fire so rarely that they have no contexts to speak of"""


def make_text(*, n_documents=1000, seed=0, rare=()):
    """Return a text; `rare` adds features that fire on so many tokens only, one document each."""
    random = np.random.default_rng(seed)
    documents = [_document(random) for _ in range(n_documents)]
    rare_rules = [Rule("words", (f"rare{n}",)) for n in range(len(rare))]
    for rule, n_times in zip(rare_rules, rare, strict=True):
        for number in random.permutation(n_documents)[:n_times]:
            documents[number].insert(len(documents[number]) // 2, rule.words[0])
    lengths = [len(words) for words in documents]
    rules = [*RULES, *rare_rules]
    fires = [np.array([rule.fires(words) for rule in rules]).T for words in documents]
    fires_TF = np.concatenate(fires)
    strength_TF = random.uniform(1, 2, fires_TF.shape)
    return Text(
        [word for words in documents for word in words],
        np.repeat(np.arange(n_documents), lengths),
        (fires_TF * strength_TF).astype(np.float32),
        len(rare),
    )


def _document(random):
    """Return filler in which features occur independently of each other, and some nearly do.

    Independently, so that what a context says of its own feature says nothing of others.
    """
    words = random.choice(FILLER, random.integers(70, 110)).tolist()
    strewn = {}
    for rule in RULES:
        is_in = rule.kind != "domain" or random.random() < 0.2
        for _ in range(random.poisson(0.35 if rule.kind != "domain" else 3) if is_in else 0):
            place = int(random.integers(2, len(words)))
            strewn.setdefault(place, []).extend(_occurrence(rule, random))
    return [one for n, word in enumerate(words) for one in (word, *strewn.get(n, ()))]


def _occurrence(rule, random):
    """Return words on which the rule holds, or a near miss."""
    is_near = random.random() < 0.35
    match rule.kind:
        case "domain":
            return random.choice(DOMAINS[rule.before], random.integers(1, 3)).tolist()
        case "words":
            return [str(random.choice(rule.words))]
        case "after":
            return [rule.before]  # filler is its own near miss
        case "bigram":
            return [random.choice(FILLER) if is_near else rule.before, rule.words[0]]
        case "unless":
            return [rule.before if is_near else random.choice(FILLER), rule.words[0]]
    raise AssertionError(rule)


def neighbours_of(feature, n_features):
    """Return the nearest features: the next two, of other kinds; Shuffled takes none of them."""
    return [(feature + step) % n_features for step in (1, 2)]


class Sizes(NamedTuple):
    """Contexts of each half."""

    n_top: int = 10
    n_quantiles: int = 4
    n_per_quantile: int = 8
    n_near: int = 20
    n_neighbour: int = 20


def example_rows(text, is_explaining, sizes=Sizes(), *, seed=0):  # noqa: B008
    """Return the rows of examples.parquet; `is_explaining` tells the halves of documents."""
    random = np.random.default_rng([seed, 1])
    vocabulary = {word: n for n, word in enumerate(sorted(set(text.words)))}
    bounds = np.searchsorted(text.doc_ids, [text.doc_ids, text.doc_ids + 1]).T
    starts = np.maximum(np.arange(len(text.words)) - BEFORE, bounds[:, 0])
    stops = np.minimum(np.arange(len(text.words)) + AFTER + 1, bounds[:, 1])
    token_ids = np.array([vocabulary[word] for word in text.words])
    explains = np.asarray(is_explaining(text.doc_ids.astype(np.int64)))
    rows = []
    for feature in range(text.activations_TF.shape[1]):
        on = text.activations_TF[:, feature]
        if not on.any():
            continue
        seen = np.concatenate([[0], np.cumsum(on > 0)])
        is_off = seen[stops] == seen[starts]
        for half in ("explain", "score"):
            of_half = explains == (half == "explain")
            groups = _groups(text, feature, on, is_off, of_half, token_ids, sizes, random)
            if half == "explain":
                del groups["random"]
            for group, places in groups.items():
                for rank, place in enumerate(places):
                    context = slice(starts[place], stops[place])
                    rows.append(
                        {
                            "feature": feature,
                            "half": half,
                            "group": group,
                            "rank": rank,
                            "doc_id": int(text.doc_ids[place]),
                            "place": int(place),
                            "peak": int(place - starts[place]),
                            "tokens": [f" {word}" for word in text.words[context]],
                            "token_ids": token_ids[context].tolist(),
                            "activations": on[context].tolist(),
                        }
                    )
    return rows


def _groups(text, feature, on, is_off, of_half, token_ids, sizes, random):
    """Return the peak places of each group of one feature and half, in the table's order."""
    places = np.flatnonzero((on > 0) & of_half)
    by_peak = places[np.argsort(-on[places], kind="stable")]
    _, first = np.unique(text.doc_ids[by_peak], return_index=True)
    by_peak = by_peak[np.sort(first)]  # one context a document
    groups = {"top": by_peak[: sizes.n_top]}
    blocks = np.array_split(by_peak[sizes.n_top :][::-1], sizes.n_quantiles)
    for n, block in enumerate(blocks):
        chosen = random.permutation(block)[: sizes.n_per_quantile]
        groups[f"q{n}"] = chosen[np.argsort(-on[chosen])]
    counts = np.bincount(token_ids[places], minlength=token_ids.max() + 1)
    off = np.flatnonzero(is_off & of_half)
    same = off[counts[token_ids[off]] > 0]
    groups["near"] = _drawn(same, sizes.n_near, random, counts[token_ids[same]])
    near = neighbours_of(feature, text.activations_TF.shape[1])
    beside = off[(text.activations_TF[off][:, near] > 0).any(axis=1)]
    groups["neighbour"] = _drawn(beside, sizes.n_neighbour, random)
    n_random = sizes.n_top + sizes.n_quantiles * sizes.n_per_quantile
    groups["random"] = _drawn(off, n_random, random)
    return groups


def _drawn(places, n, random, weights=None):
    if not len(places):
        return places
    share = None if weights is None else weights / weights.sum()
    return random.choice(places, min(n, len(places)), replace=False, p=share)


def density_rows(text):
    """Return the rows of density.parquet."""
    rows = []
    for feature, on in enumerate(text.activations_TF.T):
        active = on[on > 0]
        rows.append(
            {
                "feature": feature,
                "n_active": len(active),
                "density": len(active) / len(on),
                "mean_activation": float(active.mean()) if len(active) else 0.0,
                "max_activation": float(on.max()),
                "n_documents": len(np.unique(text.doc_ids[on > 0])),
            }
        )
    return rows


def neighbour_rows(text):
    """Return the rows of neighbours.parquet."""
    n_features = text.activations_TF.shape[1]
    return [
        {"feature": feature, "rank": rank, "neighbour": other, "cosine": 0.5 - 0.1 * rank}
        for feature in range(n_features)
        for rank, other in enumerate(neighbours_of(feature, n_features))
    ]
