"""The key is in nothing that is written: answers, logs at any level, errors, tracebacks."""

import logging
import traceback

import llm_faults as faults
import pytest
from asking_world import KEY, VARIABLE, ask_all, brain, describe, detect, make_config
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_server import Server

from deepseemoe.labels.asking import retries
from deepseemoe.labels.asking.bill import Bill
from deepseemoe.labels.asking.question import Stopped
from deepseemoe.labels.asking.secrets import PART, Scrubber, scrubbed_logs


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.setattr(retries, "FIRST", 0.001)


def parts_in(text):
    return [KEY[n : n + PART] for n in range(len(KEY) - PART + 1) if KEY[n : n + PART] in text]


@pytest.fixture
def everything(caplog):
    """Let all loggers say all they have to say."""
    names = ("openai", "httpx", "httpx2", "httpcore", "httpcore2", "asyncio", "deepseemoe")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    with caplog.at_level(logging.DEBUG):
        yield caplog
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


ECHOES = (
    faults.ECHO,
    faults.ECHO_LABEL,
    faults.ECHO_ERROR,
    faults.error(500, "header @AUTHORIZATION@"),
    faults.error(429, "slow down @AUTHORIZATION@", retry_after_ms=1),
    faults.Fault(value="plain @AUTHORIZATION@"),
    faults.Fault(200, None, {"x-echo": f"Bearer {KEY}"}),
    faults.Fault(500, f"<html>{KEY}</html>", {"x-echo": KEY, "retry-after-ms": KEY}),
)


def test_a_server_that_echoes_the_key_gets_it_into_nothing(tmp_path, everything):
    bill, questions = Bill(), [kind(f"dog{n}") for n in range(12) for kind in (describe, detect)]
    with Server(brain, plan=faults.every(2, *ECHOES), key=KEY) as server:
        ended, _ = ask_all(make_config(server.url), tmp_path, questions, bill=bill)
        assert server.keys == {f"Bearer {KEY}"}, "the server did get it"
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir()).decode()
    assert (
        "⟨key⟩"
        in written.encode()
        .decode("unicode_escape")
        .encode("latin-1", "replace")
        .decode("utf-8", "replace")
        or "\\u27e8key\\u27e9" in written
    )
    logged = everything.text
    said = repr(ended) + repr(bill.plain()) + str(bill)
    assert parts_in(written) == parts_in(logged) == parts_in(said) == []
    for record in everything.records:
        assert parts_in(repr(record.__dict__)) == []


@pytest.mark.parametrize(
    "fault",
    [
        faults.error(401, "Incorrect API key provided: @AUTHORIZATION@."),
        faults.error(404, "no model for @AUTHORIZATION@"),
        faults.Fault(403, f"<html>{KEY[3:20]}</html>"),
    ],
)
def test_errors_hold_the_key_nowhere_not_even_in_their_causes(tmp_path, everything, fault):
    with Server(brain, plan=faults.always(fault)) as server, pytest.raises(Stopped) as stopped:
        ask_all(make_config(server.url), tmp_path, [describe("dog")])
    error, seen = stopped.value, []
    while error is not None:
        seen += [repr(error), *map(repr, vars(error).values())]
        seen += traceback.TracebackException.from_exception(error, capture_locals=False).format()
        assert not hasattr(error, "request"), "it holds the headers"
        error = error.__cause__ or error.__context__
    assert parts_in("".join(seen)) == parts_in(everything.text) == []


def test_a_key_that_a_server_masks_is_not_shown_in_part(tmp_path):
    with Server(brain, key="another") as server, pytest.raises(Stopped) as stopped:
        ask_all(make_config(server.url), tmp_path, [])
    assert "Incorrect API key provided" in str(stopped.value)
    assert KEY[:8] not in str(stopped.value)
    assert KEY[-8:] not in str(stopped.value)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "is not set"),
        (KEY + "\n", "white space"),
        (f" {KEY}", "white space"),
        (KEY + "é", "not ASCII"),
        ("“" + KEY + "”", "not ASCII"),
    ],
)
def test_a_key_that_cannot_be_one_is_named_by_its_variable_alone(tmp_path, monkeypatch, key, said):
    monkeypatch.setenv(VARIABLE, key)
    with pytest.raises(Stopped, match=said) as stopped:
        ask_all(make_config("http://127.0.0.1:9/v1"), tmp_path, [])
    assert VARIABLE in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert parts_in(str(stopped.value)) == []


def test_a_short_key_of_a_local_server_spoils_no_text(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "word")
    with Server(brain) as server:
        ended, _ = ask_all(make_config(server.url), tmp_path, [describe("dog")])
    assert ended[0]["label"] == "the word dog"


LETTERS = st.text("ab1-", max_size=12)


@settings(max_examples=100, deadline=None)
@given(st.text("ab1-", min_size=PART, max_size=20), st.lists(LETTERS, max_size=5), st.data())
def test_no_part_of_a_key_survives(key, around, data):
    n = data.draw(st.integers(0, len(key) - PART))
    text = key.join(around) + key[n:] + key
    clean = Scrubber(key)(text)
    assert not any(key[n : n + PART] in clean for n in range(len(key) - PART + 1))


def test_texts_without_the_key_are_left_as_they_are():
    assert Scrubber(KEY)(f"some text sk-proj {KEY[:7]}") == f"some text sk-proj {KEY[:7]}"


def test_the_last_net_catches_what_any_logger_says(caplog):
    try:
        raise ValueError(f"key {KEY}")
    except ValueError:
        with scrubbed_logs(Scrubber(KEY)):
            logging.getLogger("some.other").exception("oh %s", {"headers": KEY})
    logging.getLogger("some.other").warning("after %s", "it")
    assert parts_in(caplog.text) == []
    assert "⟨key⟩" in caplog.text
    assert "after it" in caplog.text
