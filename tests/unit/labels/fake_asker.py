"""An asker that answers from a function, for tests of what is asked and what becomes of answers."""

import re

from deepseemoe.labels.asking.question import Unanswered, Usage

WORD = "zebra"
"""The planted feature fires on this word."""


class FakeAsker:
    """Calls `answer(question)`: fields of the form, or an Unanswered to raise."""

    def __init__(self, answer, *, chances=None, vectors=None):
        self.usage, self.questions = Usage(), []
        self._answer, self._chances, self._vectors = answer, chances, vectors

    async def ask(self, question):
        self.questions.append(question)
        found = self._answer(question)
        if isinstance(found, Unanswered):
            raise found
        return question.form.model_validate(found, context=dict(question.context))

    async def chances(self, prompt, *, purpose):
        if self._chances is None:
            raise Unanswered("rejected", "the server gives no log-probabilities")
        return self._chances(prompt)

    async def embed(self, texts, *, purpose):
        return self._vectors(texts)


def passages(prompt):
    """Return the numbered passages of a prompt."""
    return re.findall(r"^\d+\. (.*)$", prompt, flags=re.MULTILINE)


def label_in(prompt):
    """Return the description that stands in a prompt."""
    return prompt.split("\n\n")[1].strip()


def judge_all(question, verdict):
    """Return the answer of a judge that decides each passage by `verdict(label, passage)`."""
    texts, label = passages(question.prompt), label_in(question.prompt)
    field = next(iter(question.form.model_fields))
    return {field: [bool(verdict(label, text)) for text in texts]}
