"""Replies that no server should give: each ends in a status, none hangs, none brings the key."""

import asyncio
import json
import time

import llm_faults as faults
import pyarrow as pa
import pytest
from asking_world import KEY, VARIABLE, ask_all, brain, describe, make_config
from llm_server import Server

from deepseemoe.config import ConfigError, load_run
from deepseemoe.labels.asking.answers import Answers
from deepseemoe.labels.asking.bill import Bill
from deepseemoe.labels.asking.budget import Budget
from deepseemoe.labels.asking.client import Client
from deepseemoe.labels.asking.question import Unanswered
from deepseemoe.labels.asking.secrets import Scrubber, where_of

HALF = "\\ud83d"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(VARIABLE, KEY)


def described(fault, folder, **changes):
    """Return what became of a question that is always answered so, by the real courier."""
    plan = faults.always(fault, lambda body: "Describe" in json.dumps(body))
    with Server(brain, plan=plan, key=KEY) as server:
        config = make_config(server.url, max_retries=1, **changes)
        return ask_all(config, folder, [describe("dog")])[0][0]


@pytest.mark.parametrize(
    "fault",
    [
        faults.Fault(200, "plain", {"content-type": "application/json; charset=undefined"}),
        faults.Fault(200, f'"{HALF}"'),
        faults.Fault(200, "x" * 200_000),
        faults.Fault(200, "[" * 100_000),
        faults.Fault(302, "", {"location": "http://127.0.0.1:9/elsewhere"}),
        faults.error(400, "too long \ud83d"),
    ],
    ids=["charset", "half", "long", "deep", "redirect", "error"],
)
def test_an_odd_reply_ends_in_a_status_soon(tmp_path, fault):
    began = time.monotonic()
    try:
        status, reason = described(fault, tmp_path)
    except ValueError as stopped:
        status, reason = "stopped", str(stopped)
    assert status in ("unreadable", "empty", "rejected", "stopped", "server")
    assert pa.array([reason], pa.string())
    assert time.monotonic() - began < 40


def test_halves_of_characters_in_an_answer_reach_no_table(tmp_path):
    answer = '{"reasons": "a \\ud800 b", "label": "the word dog"}'
    found = described(faults.text(answer), tmp_path)
    assert found["label"] == "the word dog"
    assert pa.array([found["reasons"]], pa.string())


def test_a_key_spelt_by_escapes_reaches_no_table(tmp_path):
    spelt = "".join(f"\\u{ord(letter):04x}" for letter in KEY)
    found = described(faults.text(f'{{"label": "words {spelt}"}}'), tmp_path)
    assert KEY not in json.dumps(found)
    assert found["label"].startswith("words ⟨key⟩")


def test_no_more_than_the_budget_is_spent_on_dense_text(tmp_path):
    """A server that counts a token a character, of three bytes each."""

    async def run(url):
        config = make_config(url, max_answer_tokens=50, budget_tokens=12_000)
        bill = Bill()
        with Answers(tmp_path, "x") as answers:
            budget = Budget(tokens=12_000)
            async with Client(config, answers, bill=bill, budget=budget) as client:
                asker, found = client.asker(), []
                for n in range(12):
                    question = describe("dog")._replace(prompt=f"Describe {n} {'漢' * 1500} JSON")
                    try:
                        found.append((await asker.ask(question)).label)
                    except Unanswered as failed:
                        found.append(failed.status)
        return found, bill

    said = {"role": "assistant", "content": '{"reasons": "", "label": "the word dog"}'}
    value = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
    value["choices"] = [{"index": 0, "finish_reason": "stop", "message": said}]
    value["usage"] = {"prompt_tokens": 1530, "completion_tokens": 12, "total_tokens": 1542}
    plan = faults.always(faults.Fault(value=value), lambda body: "Describe" in json.dumps(body))
    with Server(brain, plan=plan) as server:
        found, bill = asyncio.run(asyncio.wait_for(run(server.url), 60))
    assert found[0] != "budget" == found[-1]
    assert bill.usage.n_tokens <= 12_000
    assert bill.stopped == "budget"


def test_a_key_in_the_place_of_its_variable_is_refused_and_not_shown():
    with pytest.raises(ConfigError) as refused:
        load_run({"labels": {"labeller": "openai", "api_key_env": "sk-secret/123"}})
    assert "is no name of an environment variable" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://localhost:notaport/v1", "localhost:8000", "ftp://x/v1"])
def test_what_is_no_address_is_told_before_anything_runs(url):
    with pytest.raises(ConfigError, match="is no address of a server"):
        load_run({"labels": {"base_url": url}})


def test_an_address_of_the_environment_is_shown_without_its_password(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:secret@host/v1?key=abc")
    shown = where_of(make_config(None))
    assert shown.startswith("http://host/v1, model ")


def test_long_messages_are_scrubbed_quickly():
    scrub, began = Scrubber(KEY), time.monotonic()
    assert len(scrub.line("x" * 1_000_000)) <= 300
    assert time.monotonic() - began < 5
