"""A second world of planted rules: Zipf words of several pieces, lines, sentences, brackets.

What a rule means is said here by plain loops over texts, with nothing of the labeller's. Rules are
drawn at random; SIMPLE and COMPOUND ones can be stated by the labeller, FURTHER ones cannot. A
planted feature misses a tenth of the tokens of its rule, and fires on as many others.
"""

import numpy as np
from scipy import sparse

from deepseemoe.labels.reading import Reading, Vocabulary

DOMAINS = ("finance", "botany", "sport", "law", "chat", "code")
STEMS = [a + b for a in ("ka", "le", "mo", "ri", "su", "ta", "ve", "zo") for b in "bdglmnprst"]
ENDINGS = ["ing", "ed", "er", "s", "ness", "ly", "ful", "ation"]
MARKS = [" (", ")", ",", ".", ";", '"', "\n", " [", "]", " -"]
NUMBERS = [f" {n}" for n in (1, 2, 3, 7, 10, 25, 100, 1984)]
WORDS = [
    *(f" {stem}" for stem in STEMS),
    *(f" {stem.capitalize()}" for stem in STEMS[::2]),
    *(f" {stem}{end}" for stem in STEMS[::3] for end in ENDINGS),
    *(f" {stem.upper()}" for stem in STEMS[::5]),
]
TEXTS = ["<s>", *MARKS, *NUMBERS, *WORDS, *ENDINGS]
FIRST = {"marks": 1, "numbers": 11, "words": 19, "endings": 19 + len(WORDS)}


def make_reading(seed, *, n_tokens=60_000):
    """Return a text; each domain has its own order of the words, of which frequencies follow."""
    rng = np.random.default_rng([seed, 7])
    share = 1 / (np.arange(len(WORDS)) + 5)
    orders = []
    for _ in DOMAINS:
        keys = np.argsort(np.arange(len(WORDS)) + rng.normal(0, 60, len(WORDS)))
        orders.append(keys[rng.permutation(40).tolist() + list(range(40, len(WORDS)))])
    tokens, docs, positions, domains, doc = [], [], [], [], 0
    while len(tokens) < n_tokens:
        domain = int(rng.integers(len(DOMAINS)))
        length = int(rng.integers(60, 300))
        document = _document(rng, length, orders[domain], share / share.sum())
        for first in range(0, length, 120):
            piece = [0, *document[first : first + 120]]
            tokens += piece
            positions += range(len(piece))
            docs += [doc] * len(piece)
            domains += [domain] * len(piece)
        doc += 1
    positions = np.array(positions)
    return Reading(
        vocabulary=Vocabulary(TEXTS),
        domain_names=DOMAINS,
        token_ids=np.array(tokens),
        doc_ids=np.array(docs),
        positions=positions,
        is_valid=positions > 0,
        domains=np.array(domains),
    )


def _document(rng, length, order, share):
    """Return tokens: words with endings, numbers, marks, and brackets that are closed again."""
    words = FIRST["words"] + order[rng.choice(len(order), length, p=share)]
    draws, out, closing = rng.random((length, 2)), [], {}
    for n, (draw, other) in enumerate(draws.tolist()):
        if len(out) in closing:
            out.append(closing[len(out)])
        elif draw < 0.03:
            mark, end = ((1, 2), (6, 6), (8, 9))[int(other * 3)]
            out.append(mark)
            if not any(place > len(out) for place in closing):
                closing[len(out) + 2 + int(other * 37) % 6] = end
            else:
                out[-1] = 3
        elif draw < 0.18:
            out.append((3, 3, 4, 4, 5, 7, 7, 10)[int(other * 8)])
        elif draw < 0.23:
            out.append(FIRST["numbers"] + int(other * len(NUMBERS)))
        elif draw < 0.31 and out and out[-1] >= FIRST["words"]:
            out.append(FIRST["endings"] + int(other * len(ENDINGS)))
        else:
            out.append(int(words[n]))
    return out[:length]


def make_matrix(rules, reading, seed, *, noise=0.1):
    """Return activations (T, F) of planted rules, and (T, F) where the rules hold."""
    rng = np.random.default_rng([seed, 11])
    held = np.stack([truth(rule, reading) for rule in rules], axis=1) & reading.is_valid[:, None]
    elsewhere = rng.random(held.shape) < noise * held.mean(axis=0)
    fires = held & (rng.random(held.shape) >= noise) | elsewhere
    fires &= reading.is_valid[:, None]
    return sparse.csr_array((fires * rng.gamma(3, 1, fires.shape)).astype(np.float32)), held


SIMPLE = {
    "token": ("token", "word", "shape", "affix"),
    "many tokens": ("token", "word", "shape", "affix"),
    "previous": ("previous", "after"),
    "two before": ("previous",),
    "bigram": ("bigram", "word", "both"),
    "trigram": ("trigram", "both", "bigram"),
    "word of pieces": ("word", "bigram", "both"),
    "ends": ("affix", "token", "shape"),
    "begins": ("affix", "token", "word"),
    "capitalised": ("shape",),
    "digits": ("shape", "affix", "token"),
    "longer": ("length", "affix", "shape"),
    "after": ("after",),
    "rest of line": ("since",),
    "rest of sentence": ("since",),
    "rest of segment": ("since",),
    "line opener": ("line",),
    "inside": ("inside",),
    "domain": ("domain",),
    "first": ("position",),
    "beyond": ("position",),
    "first of line": ("position", "previous"),
    "first of sentence": ("position", "previous", "after"),
    "seen before": ("repeated",),
    "even": ("every",),
    "after digits": ("shape", "previous", "affix"),
    "piece of a word": ("position", "shape", "token", "affix"),
}
"""Rules of one part, and the kinds that name them rightly: some are the same rule in this text."""

COMPOUND = (
    "token in domain",
    "token in line of",
    "token after",
    "capitalised in domain",
    "capitalised but not",
    "token inside",
    "after in domain",
    "digits in domain",
    "token or previous",
    "inside in domain",
)

FURTHER = (
    "token after in domain",
    "three ways",
    "second time",
    "longer than the one before",
    "seven to twelve after",
    "one of two but not both",
    "token and none of the line's marks",
)


def draw(kind, rng):
    """Return a random rule of a kind: its name and what it needs."""
    words = [TEXTS[FIRST["words"] + int(n)] for n in rng.permutation(40)]
    numbers = rng.integers(2, 9)
    return (kind, words, int(numbers), int(rng.integers(len(DOMAINS))), int(rng.integers(100)))


def truth(rule, reading):
    """Return (T,): where a rule holds, by plain loops over the texts of each segment."""
    held = np.zeros(len(reading.token_ids), bool)
    edges = np.append(np.flatnonzero(reading.positions == 0), len(held))
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        texts = [TEXTS[t] for t in reading.token_ids[first:last]]
        held[first:last] = _segment(rule, texts, int(reading.domains[first]))
    return held


def _segment(rule, texts, domain):
    kind, words, n, where, number = rule
    here = domain == where
    at = range(len(texts))
    plain = [text.strip().casefold() for text in texts]
    lines = _units(texts, lambda text: "\n" in text)
    sentences = _units(texts, lambda text: text == ".")
    few, trigger = set(words[: 1 + number % 6]), words[6].strip().casefold()
    end, stem = ENDINGS[number % 8], STEMS[number % 80][:2]

    def before(t, d):
        return texts[t - d] if t >= d else None

    def after(t, low, high):
        return trigger in plain[max(t - high, 0) : max(t - low + 1, 0)]

    def inside(t):
        opening, closing = ((" (", ")"), ('"', '"'), (" [", "]"))[number % 3]
        depth = 0
        for text in texts[:t]:
            if opening == closing:
                depth = (depth + (text == opening)) % 2
            else:
                depth = max(depth + (text == opening) - (text == closing), 0)
        return depth > 0 and texts[t] != closing

    def capital(t):
        return texts[t].strip().isalpha() and texts[t].strip()[0].isupper()

    said = {
        "token": lambda t: texts[t] in few,
        "many tokens": lambda t: texts[t] in words[:25],
        "previous": lambda t: before(t, 1) in few,
        "two before": lambda t: before(t, 2) in few,
        "bigram": lambda t: before(t, 1) in words[:6] and texts[t] == (",", ".", "\n")[number % 3],
        "trigram": lambda t: (
            before(t, 2) in words[:4] and before(t, 1) in ENDINGS[:4] and texts[t] == ","
        ),
        "word of pieces": lambda t: (
            before(t, 1) in words[:3] and texts[t] in (ENDINGS[number % 8], ENDINGS[number % 7])
        ),
        "ends": lambda t: plain[t].endswith(end),
        "begins": lambda t: plain[t].startswith(stem),
        "capitalised": capital,
        "digits": lambda t: plain[t].isdigit(),
        "longer": lambda t: len(plain[t]) >= 4 + number % 4,
        "after": lambda t: after(t, 1, n),
        "rest of line": lambda t: trigger in plain[lines[t] : t],
        "rest of sentence": lambda t: trigger in plain[sentences[t] : t],
        "rest of segment": lambda t: trigger in plain[:t],
        "line opener": lambda t: texts[lines[t]] in words[:12] and lines[t] > 0,
        "inside": inside,
        "domain": lambda t: here,
        "first": lambda t: t < 3 * n,
        "beyond": lambda t: t >= 10 * n,
        "first of line": lambda t: t == lines[t] and t > 0,
        "first of sentence": lambda t: t - sentences[t] < n // 2 and sentences[t] > 0,
        "seen before": lambda t: texts[t] in texts[:t],
        "even": lambda t: t % (2 + number % 3) == 0,
        "after digits": lambda t: t > 0 and plain[t - 1].isdigit(),
        "piece of a word": lambda t: texts[t] in ENDINGS and t > 0 and texts[t - 1][-1].isalnum(),
        "token in domain": lambda t: texts[t] in few and here,
        "token in line of": lambda t: texts[t] in words[:15] and ";" in plain[lines[t] : t],
        "token after": lambda t: texts[t] in words[10:30] and after(t, 1, 8),
        "capitalised in domain": lambda t: capital(t) and here,
        "capitalised but not": lambda t: capital(t) and before(t, 1) not in (",", " (", ".", "\n"),
        "token inside": lambda t: texts[t] in words[:20] and inside(t),
        "after in domain": lambda t: after(t, 1, n) and here,
        "digits in domain": lambda t: plain[t].isdigit() and here,
        "token or previous": lambda t: texts[t] in words[:3] or before(t, 1) in words[3:6],
        "inside in domain": lambda t: inside(t) and here,
        "token after in domain": lambda t: texts[t] in words[10:] and after(t, 1, 12) and here,
        "three ways": lambda t: texts[t] in words[:3] or before(t, 1) == "," or t < 3,
        "second time": lambda t: texts[t] in words[:12] and texts[:t].count(texts[t]) == 1,
        "longer than the one before": lambda t: t > 0 and len(plain[t]) > len(plain[t - 1]),
        "seven to twelve after": lambda t: after(t, 7, 12),
        "one of two but not both": lambda t: capital(t) != here,
        "token and none of the line's marks": lambda t: (
            texts[t] in words[:15] and "," not in plain[lines[t] : t]
        ),
    }[kind]
    return [bool(said(t)) for t in at]


def _units(texts, is_last):
    """Return the first token of each token's unit."""
    starts, start = [], 0
    for t, text in enumerate(texts):
        starts.append(start)
        if is_last(text):
            start = t + 1
    return starts
