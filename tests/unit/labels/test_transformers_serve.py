"""The protocol as a real server speaks it: `transformers serve`, which ignores what it lacks.

It takes `response_format` and `logprobs` without a word and answers in free text; the model behind
it is random, so nothing it says can be read. Every question must end, each with its status.
"""

import asyncio
import importlib.util

import pytest

from deepseemoe.config import LabelsConfig
from deepseemoe.labels.asking.answers import Answers
from deepseemoe.labels.asking.bill import Bill
from deepseemoe.labels.asking.client import Client
from deepseemoe.labels.asking.forms import Description, Detections
from deepseemoe.labels.asking.prompts import prompt
from deepseemoe.labels.asking.question import Question, Stopped, Unanswered

MISSING = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"transformers serve needs {MISSING}; pip install deepseemoe[test]"
)

OF_THE_MODEL = {"unreadable", "empty", "repeated", "other_language", "refused"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tiny_served import make_tiny

    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):
    from tiny_served import served

    with served(model, tmp_path_factory.mktemp("served")) as address:
        yield address


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("DEEPSEEMOE_TEST_KEY", "sk-any-text-does")


def make_config(url, model, **changes):
    known = {"labeller": "openai", "base_url": url, "model": str(model)}
    few = {"max_retries": 1, "max_answer_tokens": 24, "timeout_seconds": 30.0, "concurrency": 2}
    return LabelsConfig(**known, api_key_env="DEEPSEEMOE_TEST_KEY", **{**few, **changes})


def questions():
    texts = "\n".join(f"{n + 1}. the« cat» sat on mat {n}" for n in range(5))
    explain = prompt("explain", texts=texts, n_texts=5, near_misses="")
    detect = prompt("detect", texts=texts, n_texts=5, label="cats", zeros="0, 0, 0, 0, 0")
    return [
        Question(explain, Description, {}, "explain"),
        Question(detect, Detections, {"n_texts": 5}, "detection"),
    ]


def outcomes(config, folder):
    """Return how each question ended and what asking took."""

    async def ask_all():
        with Answers(folder, "test") as answers:
            async with Client(config, answers, bill=Bill()) as client:
                asker, ended = client.asker(), []
                for question in questions():
                    try:
                        ended.append(await asker.ask(question))
                    except Unanswered as unanswered:
                        ended.append(unanswered.status)
                return ended, asker.usage

    return asyncio.run(asyncio.wait_for(ask_all(), 60))


@pytest.mark.parametrize("structured", ["auto", "json_schema", "none"])
def test_a_server_that_ignores_the_format_leaves_every_question_with_a_status(
    url, model, tmp_path, structured
):
    ended, usage = outcomes(make_config(url, model, structured=structured), tmp_path)
    assert set(ended) <= OF_THE_MODEL
    assert usage.n_calls >= 4, "each was asked again"
    assert usage.n_in > 1000, "a token is a byte here"


def test_what_it_answered_is_kept(url, model, tmp_path):
    first = outcomes(make_config(url, model), tmp_path)
    kept = sorted(path.read_bytes() for path in tmp_path.glob("*.jsonl"))
    assert outcomes(make_config(url, model), tmp_path) == first
    assert sorted(path.read_bytes() for path in tmp_path.glob("*.jsonl")) == kept


def test_a_model_that_it_does_not_serve_stops_in_one_line(url, tmp_path):
    with pytest.raises(Stopped) as stopped:
        outcomes(make_config(url, "another-model"), tmp_path)
    assert "another-model" in str(stopped.value)
    assert "\n" not in str(stopped.value)


def test_log_probabilities_that_it_ignores_are_no_answer(url, model, tmp_path):
    async def ask():
        with Answers(tmp_path, "test") as answers:
            async with Client(make_config(url, model), answers, bill=Bill()) as client:
                await client.asker().chances("Answer with 3 digits.", purpose="simulation")

    with pytest.raises(Unanswered):
        asyncio.run(asyncio.wait_for(ask(), 60))
