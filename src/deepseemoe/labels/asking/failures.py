"""Read an answer: the form that it fills in, or the name of what is wrong with it."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from deepseemoe.labels.asking.forms import read_form
from deepseemoe.labels.asking.language import QUOTED, is_english
from deepseemoe.labels.asking.question import Failure, Question, Usage

REFUSAL = re.compile(
    r"""\s*(?:
        (?:i'?m|i\ am)\ (?:so\ |very\ )?sorry,?\ (?:but\ )?(?:i|this|that|we)\b
      | sorry,\ (?:but\ )?(?:i|we)\b
      | (?:i'?m|i\ am)\ (?:not\ able|unable)\ to\b
      | i\ (?:can'?t|cannot|can\ not|won'?t|will\ not)\ (?:help|assist|comply|provide|answer|
            fulfil|describe|label|continue|do|discuss|engage|support|analyze|process|participate)
      | i\ (?:must|have\ to)\ (?:decline|refuse)
      | as\ an?\ (?:ai|artificial|language\ model|large\ language)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)

LOOP = re.compile(r"(.{1,100}?)\1{3,}.{0,100}$", re.DOTALL)
TAIL, LOOP_LENGTH = 800, 60
"""Characters in which a loop is looked for, and how long it must be."""

SHOWN_AGAIN = 2000
"""Characters of a useless answer that are shown again: runaway ones would fill the context."""


class Answer(NamedTuple):
    """What a server answered to one request, as it is kept."""

    text: str = ""
    """What it said; without JSON around it, the start of what came instead"""
    usage: Usage = Usage()
    finish: str = "stop"
    """The server's `finish_reason`"""
    refusal: str = ""
    rejected: str = ""
    """Why the server took the request for wrong; there is no answer then"""
    chances: list[dict[str, float]] | None = None
    is_odd: bool = False
    """Whether the server sent something that is no chat completion"""
    most: int | None = None
    """max_answer_tokens, where that cut it off"""

    def plain(self) -> dict[str, Any]:
        """Return what is kept of it: plain data without empty parts."""
        kept = self._replace(usage=list(self.usage))._asdict()  # type: ignore[arg-type]
        return {name: value for name, value in kept.items() if value not in ("", None, False)}

    @classmethod
    def of_plain(cls, kept: Mapping[str, Any]) -> "Answer":
        """Return the answer that `plain` was made of; further keys are another's."""
        own = {name: value for name, value in kept.items() if name in cls._fields}
        return cls(**{**own, "usage": Usage(*kept["usage"])})


class Fault(NamedTuple):
    """What is wrong with an answer."""

    status: Failure
    reason: str


def read_answer(answer: Answer, question: Question) -> BaseModel | Fault:
    """Return the filled-in form of an answer, or what is wrong with it."""
    if answer.rejected:
        return Fault("rejected", answer.rejected)
    if answer.refusal or answer.finish == "content_filter":
        return Fault("refused", _short(answer.refusal or "content filter of the server"))
    if answer.is_odd:
        return Fault("unreadable", f"the server sent no chat completion but {answer.text[:80]!r}")
    text, is_cut = answer.text, answer.finish == "length"
    if not text.strip():
        why = "; all of max_answer_tokens went into thought or white space" if is_cut else ""
        return Fault("empty", f"the answer was empty{why}")
    try:
        form = read_form(text, question.form, question.context)
    except ValueError as error:
        return _fault_of_text(text, is_cut, str(error))
    label = getattr(form, "label", None)
    return (_fault_of_label(label) if isinstance(label, str) else None) or form


def _fault_of_text(text: str, is_cut: bool, problem: str) -> Fault:
    if is_refusal(text):
        return Fault("refused", _short(text))
    if is_cut and (unit := loop_of(text)):
        return Fault("repeated", f"the answer repeats {_short(unit, 40)!r} without end")
    cut = "it was cut off at max_answer_tokens, and " if is_cut else ""
    return Fault("unreadable", f"{cut}{problem}")


def _fault_of_label(label: str) -> Fault | None:
    if is_refusal(label):
        return Fault("refused", _short(label))
    if repeats_itself(label):
        return Fault("repeated", f"the label repeats itself: {_short(label, 60)!r}")
    if not is_english(label):
        return Fault("other_language", f"the label is not in English: {_short(label, 60)!r}")
    return None


def is_refusal(text: str) -> bool:
    """Return whether a text opens as the model declines; apologies that it quotes are none."""
    return REFUSAL.match(text.replace("’", "'")) is not None


def loop_of(text: str) -> str:
    """Return what the end of a text repeats without end, empty where it does not."""
    found = LOOP.search(text[-TAIL:])
    if found is None or len(found[0]) < LOOP_LENGTH:
        return ""
    return found[1]


def repeats_itself(label: str) -> bool:
    """Return whether a label says the same words again and again, outside of quotes."""
    words = re.findall(r"\w+", QUOTED.sub(" ", label).lower())
    return len(words) >= 4 and len(set(words)) <= max(len(words) // 4, 1)


def answer_of(body: Any, *, prompt_length: int) -> Answer:
    """Return the answer in the body of a reply, whatever is missing or odd in it.

    Where a server counts no tokens, four characters are one.
    """
    if not isinstance(body, dict):
        shown = _short(body if isinstance(body, str) else json.dumps(body))
        return Answer(shown, Usage(prompt_length // 4 + 1, len(shown) // 4 + 1, 1), is_odd=True)
    choice = _first(body.get("choices"))
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    text = _text(message.get("content"))
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Answer(
        text=text,
        usage=Usage(
            token_count(usage.get("prompt_tokens"), prompt_length // 4),
            token_count(usage.get("completion_tokens"), len(text) // 4),
            1,
        ),
        finish=str(choice.get("finish_reason") or "stop"),
        refusal=_text(message.get("refusal")),
        chances=_chances(choice.get("logprobs")),
    )


def _chances(logprobs: Any) -> list[dict[str, float]] | None:
    """Return the log-probabilities of each token's alternatives; None where there are none."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list) or not content:
        return None
    try:
        return [
            {
                str(one["token"]): float(one["logprob"])
                for one in (token.get("top_logprobs") or [token])
            }
            for token in content
        ]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None


def _text(content: Any) -> str:
    """Return a message's text; some servers send it in parts."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        return ""
    return content.encode("utf-8", "replace").decode("utf-8")  # no halves of characters


def _first(choices: Any) -> Mapping[str, Any]:
    first = choices[0] if isinstance(choices, list) and choices else {}
    return first if isinstance(first, dict) else {}


def token_count(said: Any, guess: int) -> int:
    """Return a number of tokens that a server states, or a guess where it is none."""
    is_count = isinstance(said, int) and not isinstance(said, bool) and said >= 0
    return said if is_count else guess + 1


def _short(text: str, most: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
