"""Rules of planted features, as plain words that are also programs: `find` reads what they say.

A rule is executed on the words of a passage, so that a brain can judge passages by a description
alone, whoever wrote it.
"""

import re
from typing import NamedTuple

DOMAINS = {
    "seafaring": "anchor harbour mast keel rudder sail tide sailor",
    "the court": "verdict juror appeal statute plea bailiff warrant lawsuit",
    "the kitchen": "simmer whisk oven batter ladle saute garlic pastry",
    "astronomy": "comet nebula orbit quasar eclipse telescope aphelion zenith",
    "the stable": "saddle bridle stallion hoof gallop fodder mare stirrup",
    "the loom": "weft shuttle yarn spindle bobbin heddle selvedge twill",
}
DOMAINS = {name: tuple(words.split()) for name, words in DOMAINS.items()}
SPAN = 3
"""Words after a trigger on which such a feature fires"""


class Rule(NamedTuple):
    """When a planted feature fires.

    words: on each of them; bigram: on the word right after `before`; unless: on the word except
    after `before`; after: on the three words after `before`; domain: on the words of a domain.
    """

    kind: str
    words: tuple[str, ...] = ()
    before: str = ""

    @property
    def label(self):
        """Say the rule in plain words."""
        named = [f'"{word}"' for word in self.words]
        match self.kind:
            case "words":
                return f"the words {', '.join(named)}"
            case "bigram":
                return f'the word {named[0]} right after "{self.before}"'
            case "unless":
                return f'the word {named[0]} unless it follows "{self.before}"'
            case "after":
                return f'the three words after "{self.before}"'
            case "domain":
                return f"words of {self.before}"
        raise AssertionError(self.kind)

    def fires(self, words):
        """Return where the rule holds in a list of words."""
        before = ["", *words[:-1]]
        match self.kind:
            case "words":
                return [word in self.words for word in words]
            case "bigram":
                return [
                    (one, two) == (self.before, self.words[0])
                    for one, two in zip(before, words, strict=True)
                ]
            case "unless":
                return [
                    two == self.words[0] and one != self.before
                    for one, two in zip(before, words, strict=True)
                ]
            case "after":
                return [self.before in words[max(n - SPAN, 0) : n] for n in range(len(words))]
            case "domain":
                return [word in DOMAINS[self.before] for word in words]
        raise AssertionError(self.kind)


WORD = r'"([^"]+)"'
PATTERNS = (
    ("bigram", rf"the word {WORD} right after {WORD}"),
    ("unless", rf"the word {WORD} unless it follows {WORD}"),
    ("after", rf"the three words after {WORD}"),
    ("domain", rf"words of ({'|'.join(map(re.escape, DOMAINS))})\b"),
    ("words", rf"the words {WORD}((?:, {WORD})*)"),
)


def find(text):
    """Return the first rule that a text states, or None."""
    found = [
        (match.start(), kind, match)
        for kind, pattern in PATTERNS
        if (match := re.search(pattern, text))
    ]
    if not found:
        return None
    _, kind, match = min(found, key=lambda one: one[0])
    if kind in ("after", "domain"):
        return Rule(kind, before=match[1])
    if kind == "words":
        return Rule(kind, (match[1], *re.findall(WORD, match[2])))
    return Rule(kind, (match[1],), match[2])
