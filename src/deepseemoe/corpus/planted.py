"""The planted language: generated text whose domains and spans are known for every word.

A document belongs to one domain. At each place of it one of three things happens:

    with p = TRIGGER_SHARE   a trigger word, drawn evenly, then 3 to 6 words of that trigger's span
    with p = FILLER_SHARE    a function word, the same ones in every domain
    else                     a word of the document's domain

Words of a set are drawn evenly and apart from one another. Each word is in one set only, so its
class follows from the word: what a router must read is known exactly.
"""

from collections.abc import Iterator
from types import MappingProxyType

import numpy as np

from deepseemoe.corpus.documents import Document
from deepseemoe.runtime.seeds import generator

_DOMAINS = {
    "astronomy": "star planet orbit comet galaxy nebula moon telescope eclipse meteor asteroid "
    "crater zenith pulsar quasar solstice",
    "cooking": "flour butter oven simmer onion garlic whisk dough pepper sauce roast ladle broth "
    "vinegar knead saucepan",
    "law": "court judge statute plaintiff verdict appeal contract clause witness jury tort lease "
    "liability counsel motion statutory",
    "medicine": "patient dose artery fever surgeon tissue vaccine clinic symptom tumor diagnosis "
    "kidney bandage nurse antibody lesion",
    "music": "melody chord rhythm violin octave tempo sonata choir harmony cello flute quartet "
    "overture encore refrain soprano",
    "sailing": "mast harbor keel rudder anchor tide deck rigging buoy hull jib stern galley "
    "mooring starboard spinnaker",
}
_SPANS = {
    "alpha": "red blue green yellow purple orange",
    "beta": "horse wolf otter falcon badger heron",
    "gamma": "iron copper silver nickel tungsten zinc",
    "delta": "oak maple willow birch cedar larch",
    "epsilon": "linen cotton velvet wool silk denim",
    "zeta": "seven eleven forty ninety hundred thousand",
}
_FILLER = "the of and to in a that is for with as on at by from this which it or be not but an are"

PLANTED_DOMAINS: tuple[str, ...] = tuple(_DOMAINS)
PLANTED_TRIGGERS: tuple[str, ...] = tuple(_SPANS)

TRIGGER_SHARE = 0.06
FILLER_SHARE = 0.30
SPAN_WORDS = (3, 6)
"""Least and most words of a span."""
DOCUMENT_PLACES = (40, 120)
"""Least and most places of a document; its words are at least as many."""

_DOMAIN_WORDS = {name: tuple(words.split()) for name, words in _DOMAINS.items()}
_FILLER_WORDS = tuple(_FILLER.split())
_SPAN_WORDS = {name: tuple(words.split()) for name, words in _SPANS.items()}


def _classes() -> Iterator[tuple[str, str]]:
    for name, words in _DOMAIN_WORDS.items():
        yield from ((word, f"domain:{name}") for word in words)
    for name, words in _SPAN_WORDS.items():
        yield name, f"trigger:{name}"
        yield from ((word, f"span:{name}") for word in words)
    yield from ((word, "filler") for word in _FILLER_WORDS)


_CLASSES = MappingProxyType(dict(_classes()))


def planted_classes() -> MappingProxyType[str, str]:
    """Return the class of every word, in the order of `vocabulary`.

    Classes are `domain:astronomy`, `trigger:alpha`, `span:alpha` and `filler`.
    """
    return _CLASSES


def class_of_word(word: str) -> str:
    """Return the class of a word; raise ValueError where the language does not have it."""
    if word not in _CLASSES:
        raise ValueError(f"the planted language has no word {word!r}")
    return _CLASSES[word]


def vocabulary() -> tuple[str, ...]:
    """Return all words in a fixed order; word i has token id i + 1 (0 opens a document)."""
    return tuple(_CLASSES)


def documents(seed: int) -> Iterator[Document]:
    """Yield documents without end, the same for the same seed."""
    rng = generator(seed, "corpus", "planted")
    row = 0
    while True:
        domain = PLANTED_DOMAINS[rng.integers(len(PLANTED_DOMAINS))]
        text = " ".join(_words(rng, domain))
        yield Document(text, f"planted/{row:07d}", "planted", row, domain)
        row += 1


def _words(rng: np.random.Generator, domain: str) -> Iterator[str]:
    """Yield the words of one document."""
    least, most = DOCUMENT_PLACES
    n_places = int(rng.integers(least, most + 1))
    for kind, pick in rng.random((n_places, 2)).tolist():
        if kind < TRIGGER_SHARE:
            yield from _trigger_and_span(rng, _picked(PLANTED_TRIGGERS, pick))
        elif kind < TRIGGER_SHARE + FILLER_SHARE:
            yield _picked(_FILLER_WORDS, pick)
        else:
            yield _picked(_DOMAIN_WORDS[domain], pick)


def _trigger_and_span(rng: np.random.Generator, trigger: str) -> Iterator[str]:
    least, most = SPAN_WORDS
    n_words = int(rng.integers(least, most + 1))
    yield trigger
    yield from (_picked(_SPAN_WORDS[trigger], pick) for pick in rng.random(n_words).tolist())


def _picked(words: tuple[str, ...], pick: float) -> str:
    """Return one of `words` by a number from [0, 1)."""
    return words[int(pick * len(words))]
