"""Brains of known accuracy, for llm_server.Server: from a prompt to the text of an answer.

They go by the structure of a prompt and not by its wording: passages stand as `1. text`, what is
marked between « and », and the prompt ends in an example of the JSON that is wanted.
"""

import collections
import hashlib
import json
import math
import re
from typing import NamedTuple

from llm_rules import Rule, find

UNKNOWN = "I do not know what you mean."


class Passage(NamedTuple):
    """The words of a passage, and which of them are marked."""

    words: list[str]
    is_marked: list[bool]


def sections(prompt):
    """Return the runs of numbered passages of a prompt; a heading or a new 1. starts another."""
    runs, last = [], None
    for line in prompt.splitlines():
        match = re.match(r"(\d+)\. (.*)$", line)
        if match and last is not None and int(match[1]) == last + 1:
            runs[-1].append(_passage(match[2]))
        elif match and match[1] == "1":
            runs.append([_passage(match[2])])
        last = int(match[1]) if match else last if not line.strip() else None
    return runs


def _passage(text):
    words, is_marked, is_on = [], [], False
    for piece in re.findall(r"[«»]|[^\s«»]+", text):
        if piece in "«»":
            is_on = piece == "«"
        else:
            words.append(piece.strip(".,;:!?"))
            is_marked.append(is_on)
    return Passage(words, is_marked)


def wanted(prompt):
    """Return which key the answer must have, by the last JSON object of the prompt."""
    keys = [key for key, _ in re.findall(r'\{\s*"(\w+)"\s*:([^{}]*)\}', prompt)]
    if keys:
        return "label" if keys[-1] in ("reasons", "label") else keys[-1]
    return "digits" if re.search(r"\d+ digits", prompt) else ""


def statement(prompt):
    """Return the prompt without its passages: where a description stands."""
    return "\n".join(line for line in prompt.splitlines() if not re.match(r"\d+\. ", line))


class Brain:
    """Explains by `explain`, and judges by executing the description that it is shown."""

    def __init__(self, rules=(), *, error=0.0, seed=0):
        """Take the rules that it knows of, and how often a verdict is turned round."""
        self.rules, self.error, self.seed = tuple(rules), error, seed

    def __call__(self, prompt):
        key, runs = wanted(prompt), sections(prompt)
        if key == "label" and runs:
            return json.dumps({"reasons": "They have it in common.", "label": self.explain(runs)})
        if key == "digits":
            return " ".join(map(str, self.digits(prompt)))
        if key == "intruder" and runs:
            return json.dumps({key: self.intruder(prompt, runs[-1])})
        if key in ("present", "right", "likely") and runs:
            return json.dumps({key: self.verdicts(prompt, key, runs[-1])})
        return UNKNOWN

    def chances(self, prompt):
        """Return the log-probabilities at each token of a simulation's answer."""
        text = self(prompt)
        if wanted(prompt) != "digits":
            return [{character: -1e-4} for character in text]
        found: list[dict[str, float]] = []
        for digit in text.split():
            ones = {str(d): math.log(0.91 if str(d) == digit else 0.01) for d in range(10)}
            found += [ones, {" ": -1e-4}]
        return found[:-1]

    def explain(self, runs):
        """Return the rule that holds where passages are marked, and not in the near misses."""
        return self.best(runs[0]).label

    def best(self, passages):
        """Return the rule that agrees best with the marks."""

        def agreement(rule):
            hits = misses = 0
            for passage in passages:
                for fires, marked in zip(rule.fires(passage.words), passage.is_marked, strict=True):
                    hits += fires and marked
                    misses += fires != marked
            return 2 * hits / max(2 * hits + misses, 1)

        return max(self.rules, key=agreement)

    def verdicts(self, prompt, key, passages):
        """Return what the description that the prompt states says of each passage."""
        rule = find(statement(prompt))
        judge = {"present": _is_present, "right": _is_right, "likely": _is_right}[key]
        found = [rule is not None and judge(rule, passage) for passage in passages]
        turned = [is_it ^ self.errs(prompt, n) for n, is_it in enumerate(found)]
        return [4 * is_it if key == "likely" else int(is_it) for is_it in turned]

    def intruder(self, prompt, passages):
        """Return the number of the passage whose marks fit no rule that fits the others."""
        right_RN = [[_is_right(rule, one) for one in passages] for rule in self.rules]
        best = max(right_RN, key=lambda row: (sum(row) < len(row)) * sum(row))
        number = best.index(False) if False in best else 0
        if self.errs(prompt, 0):
            number = (number + 1 + self.draw(prompt, "other") % (len(passages) - 1)) % len(passages)
        return number + 1

    def digits(self, prompt):
        """Return 9 where the stated rule holds on the listed tokens, else 0."""
        n_tokens = int(re.findall(r"(\d+) digits", prompt)[-1])
        head = prompt.rsplit("\n\n", 1)[0].splitlines()
        words = [line.strip() for line in head[-n_tokens:]]
        rule = find("\n".join(head[:-n_tokens]))
        fires = rule.fires(words) if rule else [False] * n_tokens
        return [9 * (one ^ self.errs(prompt, n)) for n, one in enumerate(fires)]

    def errs(self, prompt, number):
        """Return whether a verdict is turned round; the same for the same question, always."""
        return self.draw(prompt, number) / 2**64 < self.error

    def draw(self, prompt, *purpose):
        text = json.dumps([self.seed, prompt, *purpose])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


class Shuffled(Brain):
    """Describes each feature by the rule of another, half the list away; has no eye for intruders.

    Not by the next one: neighbours stand there.
    """

    def explain(self, runs):
        right = self.rules.index(self.best(runs[0]))
        return self.rules[(right + len(self.rules) // 2 + 1) % len(self.rules)].label

    def intruder(self, prompt, passages):
        return 1 + self.draw(prompt) % len(passages)


class Lexical(Brain):
    """Describes a feature by the words that are marked most often, and sees nothing else."""

    def explain(self, runs):
        counts = collections.Counter(
            word
            for passage in runs[0]
            for word, marked in zip(passage.words, passage.is_marked, strict=True)
            if marked and word and '"' not in word
        )
        common = [w for w, n in counts.most_common(4) if n >= 0.1 * counts.total()] or ["nothing"]
        return Rule("words", tuple(common)).label

    def intruder(self, prompt, passages):
        """Return the passage whose marked words are rarest among all marked words."""
        marked = [
            {w for w, m in zip(one.words, one.is_marked, strict=True) if m} for one in passages
        ]
        shared = [
            sum(len(own & other) for k, other in enumerate(marked) if k != n)
            for n, own in enumerate(marked)
        ]
        return 1 + shared.index(min(shared))


def _is_present(rule, passage):
    return any(rule.fires(passage.words))


def _is_right(rule, passage):
    """Return whether the rule holds on at least half of the marked words."""
    fires = [f for f, m in zip(rule.fires(passage.words), passage.is_marked, strict=True) if m]
    return bool(fires) and 2 * sum(fires) >= len(fires)


def named(name):
    """Return a brain by its name: oracle, shuffled, lexical, coin, or noisy:0.2."""
    from llm_texts import RULES

    kind, _, error = name.partition(":")
    if kind == "lexical":
        return Lexical()
    if kind == "shuffled":
        return Shuffled(RULES)
    return Brain(RULES, error={"oracle": 0.0, "coin": 0.5}.get(kind) if not error else float(error))
