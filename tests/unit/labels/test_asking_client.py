"""Whatever a server does wrong, a question has an answer or a failure with a name and a reason."""

import asyncio
import logging
import socket

import llm_faults as faults
import pytest
from asking_world import KEY, VARIABLE, ask_all, brain, describe, detect, make_config
from llm_http import prompt_of
from llm_server import Server

from deepseemoe.labels.asking import exchange, limits, probe, retries
from deepseemoe.labels.asking.answers import Answers
from deepseemoe.labels.asking.bill import Bill
from deepseemoe.labels.asking.client import Client
from deepseemoe.labels.asking.question import Stopped, Unanswered

FINE = [{"label": "the word dog", "reasons": "seen"}, {"present": [True, False, True]}]
BOTH = [describe("dog"), detect("dog")]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setenv(VARIABLE, KEY)
    monkeypatch.setattr(retries, "FIRST", 0.001)


def of_questions(fault):
    """Fail on all but the probe."""
    return faults.always(fault, lambda body: prompt_of(body) != probe.PROMPT)


def asked(server):
    return [body for body in server.bodies if prompt_of(body) != probe.PROMPT]


@pytest.mark.parametrize(
    ("structured", "way", "n_tries"),
    [
        ("enforce", "json_schema", 1),
        ("object", "json_object", 2),
        ("ignore", None, 3),
        ("reject", None, 3),
    ],
)
def test_the_probe_finds_out_how_answers_are_structured(tmp_path, structured, way, n_tries):
    with Server(brain, structured=structured) as server:
        ended, _ = ask_all(make_config(server.url), tmp_path, BOTH)
        assert ended == FINE
        forms = [body.get("response_format", {}).get("type") for body in asked(server)]
        assert forms == [way, way]
        assert len(server.bodies) == n_tries + 2
        ask_all(make_config(server.url), tmp_path, BOTH)
        assert len(server.bodies) == n_tries + 2, "a second run asks nothing at all"


def test_a_way_that_the_user_wants_is_taken(tmp_path):
    with Server(brain, structured="ignore") as server:
        ask_all(make_config(server.url, structured="json_schema"), tmp_path, BOTH)
        assert {body["response_format"]["type"] for body in asked(server)} == {"json_schema"}
        ask_all(make_config(server.url, structured="none"), tmp_path / "none", BOTH)
        assert "response_format" not in asked(server)[-1]


def test_keys_that_a_model_does_not_know_are_left_out(tmp_path):
    def strict(number, body):
        if "max_tokens" in body:
            said = "Unsupported parameter: 'max_tokens' is not supported with this model. "
            return faults.error(400, said + "Use 'max_completion_tokens' instead.")
        if "temperature" in body:
            return faults.error(400, "Unsupported value: 'temperature' does not support 0.0")
        return None

    with Server(brain, plan=strict, structured="enforce") as server:
        assert ask_all(make_config(server.url), tmp_path, BOTH)[0] == FINE
        assert len(server.bodies) == 5
        assert {"max_tokens", "temperature"} & set(asked(server)[0]) == set()
        assert asked(server)[0]["max_completion_tokens"] == 1000


def test_a_key_that_only_some_requests_show_to_be_unknown_is_learnt_for_good(tmp_path):
    def no_lists(number, body):
        is_long = "minItems" in str(body.get("response_format"))
        return faults.error(400, "response_format: minItems is unknown") if is_long else None

    with Server(brain, plan=no_lists, structured="enforce") as server:
        many = [detect(f"dog{n}") for n in range(8)]
        ended, _ = ask_all(make_config(server.url, concurrency=4), tmp_path, many)
        assert all("present" in one for one in ended)
        n_asked = len(server.bodies)
        ask_all(make_config(server.url), tmp_path, [*many, detect("cat")])
        assert len(server.bodies) == n_asked + 1


@pytest.mark.parametrize(
    ("fault", "status", "n_calls"),
    [
        (faults.EMPTY, "empty", 3),
        (faults.NULL, "empty", 3),
        (faults.NO_CHOICES, "empty", 3),
        (faults.PROSE, "unreadable", 3),
        (faults.WRONG_JSON, "unreadable", 3),
        (faults.OTHER_JSON, "unreadable", 3),
        (faults.TRUNCATED, "unreadable", 3),
        (faults.OTHER_LANGUAGE, "other_language", 3),
        (faults.REPEATED, "repeated", 2),
        (faults.REPEATED_JSON, "repeated", 2),
        (faults.REFUSED, "refused", 1),
        (faults.REFUSED_FIELD, "refused", 1),
        (faults.FILTERED, "refused", 1),
        (faults.BAD_REQUEST, "rejected", 1),
        (faults.TOO_LONG, "rejected", 1),
        (faults.TOO_LARGE, "rejected", 1),
        (faults.ECHO_ERROR, "rejected", 1),
    ],
)
def test_every_failure_has_its_name_and_is_paid_for_once(tmp_path, fault, status, n_calls):
    with Server(brain, plan=of_questions(fault)) as server:
        bill = Bill()
        first = ask_all(make_config(server.url), tmp_path, [describe("dog")], bill=bill)
        (said, reason), usage = first[0][0], first[1]
        assert (said, len(asked(server)), usage.n_calls) == (status, n_calls, n_calls)
        assert reason
        assert "\n" not in reason
        assert KEY not in reason
        assert bill.plain()["failures"] == {status: 1}
        again = Bill()
        assert ask_all(make_config(server.url), tmp_path, [describe("dog")], bill=again) == first
        assert again.plain() == bill.plain()
        assert len(asked(server)) == n_calls, "not once more"
        assert not server.repeated()


@pytest.mark.parametrize(
    "fault",
    [faults.BROKEN, faults.OVERLOADED, faults.HTML, faults.CUT, faults.CUT_BODY, faults.busy()],
)
def test_a_server_that_keeps_failing_is_no_answer_and_is_asked_again_later(tmp_path, fault):
    with Server(brain, plan=of_questions(fault)) as server:
        ended, usage = ask_all(make_config(server.url, max_retries=1), tmp_path, BOTH)
        assert [one[0] for one in ended] == ["server", "server"]
        assert usage.n_calls == 0
        server.plan = lambda number, body: None
        assert ask_all(make_config(server.url), tmp_path, BOTH)[0] == FINE


def test_passing_failures_change_no_answer(tmp_path):
    many = [kind(f"dog{n}") for n in range(20) for kind in (describe, detect)]
    with Server(brain) as server:
        right = ask_all(make_config(server.url), tmp_path / "right", many)
    with Server(brain, plan=faults.every(3, *faults.PASSING)) as server:
        config = make_config(server.url, max_retries=12, concurrency=4)
        assert ask_all(config, tmp_path / "failing", many) == right
        assert not server.repeated()


def test_a_hanging_request_is_given_up_and_made_again(tmp_path):
    plan = faults.once(faults.timeout(0.6))
    with Server(brain, plan=plan) as server:
        config = make_config(server.url, timeout_seconds=0.25, structured="none")
        assert ask_all(config, tmp_path, BOTH)[0] == FINE


def test_answers_of_no_use_are_asked_for_again_with_what_was_wrong(tmp_path):
    plan = faults.by_content(1.0, faults.PROSE, messages=9)

    def first_only(number, body):
        return plan(number, body) if len(body["messages"]) == 1 else None

    with Server(brain, plan=first_only) as server:
        ended, usage = ask_all(make_config(server.url), tmp_path, [describe("dog")])
        assert ended == FINE[:1]
        assert usage.n_calls == 2
        roles = [message["role"] for message in asked(server)[1]["messages"]]
        assert roles == ["user", "assistant", "user"]
        assert "no JSON object" in asked(server)[1]["messages"][2]["content"]


@pytest.mark.parametrize("fault", [faults.busy(0.3), faults.busy_by_reset("300ms")])
def test_one_429_holds_all_requests_for_as_long_as_it_says(tmp_path, fault):
    is_first = [True]

    def plan(number, body):
        if prompt_of(body) == probe.PROMPT or not is_first:
            return None
        is_first.clear()
        return fault

    with Server(brain, plan=plan) as server:
        many = [describe(f"dog{n}") for n in range(6)]
        ended, _ = ask_all(make_config(server.url, concurrency=1), tmp_path, many)
        assert all("label" in one for one in ended)
        times = [one.began for one in server.chats if prompt_of(one.body) != probe.PROMPT]
        assert times[1] - times[0] >= 0.29


def test_the_same_question_is_asked_once_however_many_want_it(tmp_path):
    with Server(brain, seconds=0.05) as server:
        bill = Bill()
        ended, usage = ask_all(make_config(server.url), tmp_path, BOTH * 10, bill=bill)
        assert ended == FINE * 10
        assert usage.n_calls == 20, "each asker counts what its answers took"
        assert bill.plain()["by_purpose"]["explain"]["calls"] == 1
        assert max(server.counts().values()) == 1


def test_a_cut_answer_is_asked_for_again_where_it_may_be_longer(tmp_path):
    plan = of_questions(faults.TRUNCATED)
    with Server(brain, plan=plan) as server:
        config = make_config(server.url, max_retries=0)
        assert ask_all(config, tmp_path, BOTH[:1])[0][0][0] == "unreadable"
        server.plan = lambda number, body: None
        assert ask_all(config, tmp_path, BOTH[:1])[0][0][0] == "unreadable"
        longer = make_config(server.url, max_retries=0, max_answer_tokens=2000)
        assert ask_all(longer, tmp_path, BOTH[:1])[0] == FINE[:1]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (faults.WRONG_KEY, f"check the key in {VARIABLE}"),
        (faults.FORBIDDEN, f"check the key in {VARIABLE}"),
        (faults.UNKNOWN_MODEL, "check labels.model and labels.base_url"),
        (faults.error(400, "Model 'x' not found"), "check labels.model and labels.base_url"),
        (faults.NO_QUOTA, "pay, or raise the limit"),
        (faults.error(402, "Insufficient credits"), "account is empty"),
        (faults.Fault(200, "<html>Welcome</html>"), "a web page; check labels.base_url"),
    ],
)
def test_what_no_request_can_mend_stops_at_entry_in_one_line(tmp_path, fault, said):
    with Server(brain, plan=faults.always(fault)) as server:
        with pytest.raises(Stopped, match="model gpt-oss-20b") as stopped:
            ask_all(make_config(server.url), tmp_path, BOTH)
        line = str(stopped.value)
        assert said in line
        assert server.url in line
        assert "\n" not in line
        assert KEY not in line


def test_a_server_that_is_not_there_stops_at_entry(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(Stopped, match="no connection .*start the server") as stopped:
            ask_all(make_config(url), tmp_path, BOTH)
    assert url in str(stopped.value)


def test_a_server_that_fails_on_the_probe_alone_is_asked_all_the_same(tmp_path, caplog):
    for fault in (faults.CUT, faults.BROKEN, faults.BAD_REQUEST):
        plan = faults.always(fault, lambda body: prompt_of(body) == probe.PROMPT)
        with Server(brain, plan=plan) as server:
            config = make_config(server.url, max_retries=1)
            assert ask_all(config, tmp_path / str(fault.status) / fault.cuts, BOTH)[0] == FINE
            assert "response_format" not in asked(server)[0]


def test_a_wrong_key_in_mid_run_stops_all_and_keeps_the_answers(tmp_path):
    many = [describe(f"dog{n}") for n in range(30)]
    with Server(brain) as server:
        server.plan = lambda number, body: faults.WRONG_KEY if number >= 12 else None
        with pytest.raises(Stopped, match="answers so far are kept"):
            ask_all(make_config(server.url, concurrency=2), tmp_path, many)
        n_asked = len(server.chats)
        assert n_asked <= 14
        server.plan = lambda number, body: None
        ask_all(make_config(server.url), tmp_path, many)
        assert not server.repeated()


def test_what_is_under_way_when_a_run_stops_is_waited_for_and_kept(tmp_path):
    def plan(number, body):
        is_last = "dog5" in prompt_of(body)
        return faults.NO_QUOTA if is_last else faults.Fault(seconds=0.5 * ("dog" in str(body)))

    many = [describe(f"dog{n}") for n in range(6)]
    with Server(brain, plan=plan) as server:
        config = make_config(server.url, structured="none")
        with pytest.raises(Stopped, match="pay, or raise the limit"):
            ask_all(config, tmp_path, many)
        with Answers(tmp_path, "test") as answers:
            assert len(answers) == 1 + 5
        server.plan = lambda number, body: None
        ask_all(config, tmp_path, many)
        assert not server.repeated()


def test_halves_of_characters_are_neither_sent_nor_given(tmp_path):
    with Server(brain, plan=of_questions(faults.text('{"label": "half \ud83d"}'))) as server:
        ended, _ = ask_all(make_config(server.url), tmp_path, [describe("dog\ud83d")])
        assert ended[0]["label"] == "half ?"
        server.plan = of_questions(faults.text('{"label": "half \\ud83d"}'))
        ended, _ = ask_all(make_config(server.url), tmp_path, [describe("cat")])
        assert ended[0][0] == "unreadable"


def test_a_number_without_end_is_unreadable(tmp_path):
    with Server(brain, plan=of_questions(faults.text('{"label": ' + "1" * 9000 + "}"))) as server:
        assert ask_all(make_config(server.url), tmp_path, BOTH[:1])[0][0][0] == "unreadable"


def test_a_server_that_goes_away_stops_the_run_and_answers_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "SILENT", 6)
    many = [describe(f"dog{n}") for n in range(30)]
    with Server(brain) as server:
        server.plan = lambda number, body: faults.CUT if number >= 12 else None
        with pytest.raises(Stopped, match="times in a row.*answers so far are kept"):
            ask_all(make_config(server.url, concurrency=2, max_retries=50), tmp_path, many)
        with Answers(tmp_path, "test") as answers:
            assert len(answers) == 12


def test_no_more_requests_are_under_way_than_allowed(tmp_path):
    with Server(brain, seconds=0.02) as server:
        many = [describe(f"dog{n}") for n in range(12)]
        ask_all(make_config(server.url, concurrency=3), tmp_path, many)
        assert server.most_busy == 3


def test_own_limits_slow_requests_down(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MINUTE", 0.5)
    with Server(brain) as server:
        config = make_config(server.url, requests_per_minute=3, structured="none")
        ask_all(config, tmp_path, [describe(f"dog{n}") for n in range(5)])
        times = [one.began for one in server.chats]
        assert len(times) == 6
        gaps = [late - early for early, late in zip(times, times[3:], strict=False)]
        assert min(gaps) >= 0.4


def use(config, folder, work):
    async def run():
        with Answers(folder, "test") as answers:
            async with Client(config, answers, bill=Bill()) as client:
                return await work(client.asker())

    return asyncio.run(asyncio.wait_for(run(), 30))


@pytest.mark.parametrize("logprobs", ["give", "ignore", "reject"])
def test_log_probabilities_are_given_or_said_to_be_missing(tmp_path, logprobs):
    with Server(brain, logprobs=logprobs) as server:
        server.brain = Chancy()

        async def work(asker):
            found = []
            for n in range(2):
                try:
                    found.append(await asker.chances(f"Say {n}.", purpose="simulation"))
                except Unanswered as failed:
                    found.append(failed.status)
            return found

        found = use(make_config(server.url, structured="none"), tmp_path, work)
        given = [{"7": pytest.approx(-0.1), "8": pytest.approx(-2.4)}]
        assert found == ([given, given] if logprobs == "give" else ["rejected", "rejected"])
        n_asked = len(server.bodies)
        use(make_config(server.url, structured="none"), tmp_path, work)
        assert len(server.bodies) == n_asked


class Chancy:
    def __call__(self, prompt):
        return "7"

    def chances(self, prompt):
        return [{"7": -0.1, "8": -2.4}]


def test_texts_have_vectors_and_are_sent_once(tmp_path):
    from llm_http import embedding

    texts = ["the cat", "a dog"]
    with Server(brain) as server:
        config = make_config(server.url, structured="none", embedding_model="small")
        for _ in range(2):
            found = use(config, tmp_path, lambda asker: asker.embed(texts, purpose="embedding"))
            assert found == [embedding(text).tolist() for text in texts]
        assert len(server.embeddings) == 1
        server.plan = faults.always(faults.OTHER_JSON)
        with pytest.raises(Unanswered, match="no vectors"):
            use(config, tmp_path, lambda asker: asker.embed(["new"], purpose="embedding"))


def test_the_log_says_what_the_server_can_do_and_not_one_line_a_request(tmp_path, caplog):
    with caplog.at_level(logging.INFO), Server(brain) as server:
        ask_all(make_config(server.url), tmp_path, [describe(f"dog{n}") for n in range(30)])
    assert "structured output by none" in caplog.text
    assert len(caplog.records) < 5
