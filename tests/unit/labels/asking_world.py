"""Questions for llm_server, and what becomes of them."""

import asyncio
import json

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking import probe
from deepseemoe.labels.asking.answers import Answers
from deepseemoe.labels.asking.bill import Bill, Prices
from deepseemoe.labels.asking.client import Client
from deepseemoe.labels.asking.forms import Description, Detections
from deepseemoe.labels.asking.question import Question, Unanswered

KEY = "sk-proj-Zq81kkPq0293jfXw_not-for-anyones-eyes"
VARIABLE = "DEEPSEEMOE_TEST_KEY"


def brain(prompt):
    """Answer the questions below; the probe is answered as a chatty model does."""
    if prompt == probe.PROMPT:
        return "Hello!"
    word = prompt.split()[1]
    if prompt.startswith("Describe"):
        return json.dumps({"reasons": "seen", "label": f"the word {word}"})
    return json.dumps({"present": [1, 0, int(len(word) % 2)]})


def describe(word):
    return Question(f"Describe {word} in JSON.", Description, {}, "explain")


def detect(word):
    return Question(f"Find {word} in JSON.", Detections, {"n_texts": 3}, "detection")


def make_config(url, **changes):
    known = {"labeller": "openai", "base_url": url, "api_key_env": VARIABLE, "timeout_seconds": 5.0}
    return LabelsConfig(**{**known, "max_retries": 2, **changes})


async def outcome(asker, question):
    """Return the form as plain data, or the status of its failure and the reason."""
    try:
        return (await asker.ask(question)).model_dump()
    except Unanswered as failed:
        return failed.status, str(failed)


def ask_all(config, folder, questions, *, bill=None, name="test"):
    """Return what became of each question, and the usage of all."""

    async def run():
        with Answers(folder, name) as answers:
            own = bill if bill is not None else Bill(Prices.of(config))
            async with Client(config, answers, bill=own) as client:
                asker = client.asker()
                asked = (outcome(asker, question) for question in questions)
                return await asyncio.gather(*asked), asker.usage

    return asyncio.run(asyncio.wait_for(run(), 60))
