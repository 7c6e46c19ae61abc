"""Are scores true? Brains of known accuracy describe and judge features of known rules.

Scores must be what the brains are: 1 for an oracle, a half for one that mixes features up, 1 - e
for one that errs in e of its verdicts, whatever fails on the way.
"""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import llm_faults as faults
import numpy as np
import pytest
from llm_brains import Brain, Lexical, Shuffled, sections, wanted
from llm_server import Server, prompt_of, repeated
from llm_tables import KEY, KEY_NAME, label, write_tables
from llm_texts import KINDS, N_FEATURES, RULES

TESTS = Path(__file__).parents[2]
SCORERS = ("detection", "hard", "fuzzing")
RARE = (3, 12)
HIT = 13
"""One of the most frequent features"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"), rare=RARE)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(KEY_NAME, KEY)


def labelled(brain, tables, folder, *, plan=None, server=None, **changes):
    """Return what labelling by a brain wrote, and the server."""
    folder.mkdir(exist_ok=True)
    with Server(brain, plan=plan, **(server or {})) as asked:
        return label(asked.url, tables, folder, **changes), asked


def rate(labels, scorer, column="balanced_accuracy"):
    """Return the mean of a scorer over planted features and its standard error."""
    found = [
        row[column]
        for row in labels.scores
        if row["scorer"] == scorer and row["feature"] < N_FEATURES and row[column] is not None
    ]
    assert len(found) > 10
    return np.mean(found), np.std(found, ddof=1) / len(found) ** 0.5


@pytest.fixture(scope="module")
def oracle(tables, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_NAME, KEY)
        folder = tmp_path_factory.mktemp("oracle")
        return labelled(Brain(RULES), tables, folder, null_features=30, per_prompt=20)


@pytest.fixture(scope="module")
def shuffled(tables, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_NAME, KEY)
        folder = tmp_path_factory.mktemp("shuffled")
        return labelled(Shuffled(RULES), tables, folder, null_features=30)


def test_an_oracle_describes_every_feature_and_scores_close_to_one(oracle):
    labels, _ = oracle
    for feature, rule in enumerate(RULES):
        assert labels.features[feature]["label"] == rule.label
        assert labels.features[feature]["status"] == "labelled"
    for scorer in (*SCORERS, "intruder"):
        assert rate(labels, scorer)[0] >= 0.98, scorer


def test_labels_of_other_features_score_a_half(shuffled):
    labels, _ = shuffled
    for scorer in (*SCORERS, "intruder"):
        mean, error = rate(labels, scorer)
        assert abs(mean - 0.5) <= 2 * error, (scorer, mean, error)


def test_the_lift_is_what_a_description_is_worth(oracle, shuffled, tables, tmp_path):
    for scorer in ("detection", "hard", "fuzzing"):
        assert oracle[0].mean(scorer, column="null") == pytest.approx(0.5, abs=0.03)
        assert oracle[0].mean(scorer, column="lift") == pytest.approx(0.5, abs=0.03)
        # Swapped among eight, labels that were wrong are right by chance: the null is no lower.
        assert shuffled[0].mean(scorer, column="lift") <= 0.01


def test_a_coin_has_no_lift(tables, tmp_path):
    settings = {"scorers": ("detection",), "per_prompt": 20, "null_features": 30}
    labels, _ = labelled(Brain(RULES, error=0.5), tables, tmp_path, **settings)
    own, swapped = rate(labels, "detection"), rate(labels, "detection", column="swapped")
    assert abs(labels.mean("detection", column="lift")) <= 3 * np.hypot(own[1], swapped[1])
    lifts = [row for row in labels.scores if row["feature"] < N_FEATURES]
    covered = [row["lift_lo"] <= 0 <= row["lift_hi"] for row in lifts]
    assert np.mean(covered) >= 0.85, "intervals of 95 %, of 30 features"


def test_scores_of_a_noisy_judge_fall_on_the_line(oracle, tables, tmp_path):
    errors = np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    settings = {"scorers": SCORERS, "per_prompt": 20}
    runs = [
        labelled(Brain(RULES, error=error), tables, tmp_path / str(error), **settings)[0]
        for error in errors[1:]
    ]
    for scorer in SCORERS:
        found, spread = np.array([rate(labels, scorer) for labels in (oracle[0], *runs)]).T
        design = np.stack([np.ones_like(errors), errors], axis=1)
        solve = np.linalg.pinv(design)
        (intercept, slope), variances = solve @ found, (solve**2) @ spread**2
        assert abs(intercept - 1) <= 2 * variances[0] ** 0.5 + 0.005, (scorer, intercept)
        assert abs(slope + 1) <= 2 * variances[1] ** 0.5 + 0.005, (scorer, slope)


def test_a_lexical_explainer_does_better_on_words_than_on_contexts(tables, tmp_path):
    labels, _ = labelled(Lexical(), tables, tmp_path, scorers=("detection", "hard"), per_prompt=20)
    of_kind = {
        kind: [n for n, rule in enumerate(RULES) if rule.kind == kind and n in labels.features]
        for kind in KINDS
    }
    words = labels.mean("detection", features=of_kind["words"])
    assert words >= 0.98
    assert words - labels.mean("detection", features=of_kind["after"]) > 0.3
    # A word that only counts after another is told from random text, and not from near misses.
    assert labels.mean("detection", features=of_kind["bigram"]) > 0.9
    assert labels.mean("hard", features=of_kind["bigram"]) < 0.85
    assert labels.mean("hard", features=of_kind["words"]) > 0.95


def only(plan, *kinds):
    """Let a plan act only on the questions whose answers have one of these keys."""
    return lambda number, body: plan(number, body) if wanted(prompt_of(body)) in kinds else None


def test_failures_of_verdicts_are_counted_and_move_no_score(tables, tmp_path):
    kinds = (*faults.UNREADABLE, faults.REFUSED, faults.BAD_REQUEST, faults.BROKEN)
    plan = only(faults.by_content(0.3, *kinds, messages=1), "present", "right")
    brain, scorers = Brain(RULES, error=0.2), ("detection", "fuzzing")
    whole, _ = labelled(brain, tables, tmp_path / "whole", scorers=scorers)
    holed, asked = labelled(
        brain, tables, tmp_path / "holed", scorers=scorers, plan=plan, max_retries=0
    )
    failed = sum(row["n_failed"] for row in holed.scores)
    judged = sum(row["n_positive"] + row["n_negative"] for row in holed.scores)
    asked_for = sum(row["n_positive"] + row["n_negative"] for row in whole.scores)
    assert failed + judged == asked_for, "every item is in one of the counts"
    lost = {
        prompt_of(one.body): len(sections(prompt_of(one.body))[-1])
        for one in asked.chats
        if plan(one.number, {**one.body, "messages": one.body["messages"][:1]})
    }
    assert failed == sum(lost.values()) > 0.2 * asked_for
    means, spreads = np.array([rate(holed, scorer) for scorer in scorers]).T
    assert abs(means.mean() - 0.8) <= 2 * np.hypot.reduce(spreads) / len(scorers)
    reasons = " ".join(row["reason"] for row in holed.scores)
    assert all(status in reasons for status in ("unreadable", "refused", "rejected", "server"))


def test_failures_that_pass_leave_no_trace_in_the_tables(tables, tmp_path):
    settings = {"scorers": ("detection",), "max_retries": 4, "max_features": 10}
    whole, asked = labelled(Brain(RULES), tables, tmp_path / "whole", **settings)
    settings["server"] = {"port": asked.port}
    plan = faults.every(7, *faults.PASSING)
    again, asked = labelled(Brain(RULES), tables, tmp_path / "again", plan=plan, **settings)
    assert again.bytes() == whole.bytes()
    assert not asked.repeated()
    assert {0, 429, 500, 502, 503} <= {one.status for one in asked.chats}


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (faults.PROSE, "unreadable"),
        (faults.TRUNCATED, "unreadable"),
        (faults.EMPTY, "empty"),
        (faults.NULL, "empty"),
        (faults.NO_CHOICES, "empty"),
        (faults.REFUSED, "refused"),
        (faults.REFUSED_FIELD, "refused"),
        (faults.FILTERED, "refused"),
        (faults.OTHER_LANGUAGE, "other_language"),
        (faults.REPEATED, "repeated"),
        (faults.BAD_REQUEST, "rejected"),
        (faults.TOO_LARGE, "rejected"),
        (faults.BROKEN, "server"),
        (faults.WRONG_JSON, "unreadable"),
        (faults.CUT, "server"),
        (faults.timeout(3), "server"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_failure_of_a_description_has_its_status(tables, tmp_path, fault, status):
    settings = {"scorers": ("detection",), "max_retries": 1, "max_features": 3, "per_prompt": 20}
    settings["timeout_seconds"] = 0.7 if fault.seconds else 20.0
    plan = faults.always(fault, lambda body: described(body) == HIT)
    labels, _ = labelled(Brain(RULES), tables, tmp_path, plan=plan, **settings)
    assert labels.features[HIT]["status"] == status
    assert labels.features[HIT]["reason"]
    assert "\n" not in labels.features[HIT]["reason"]
    others = [row["status"] for feature, row in labels.features.items() if feature != HIT]
    assert others == ["labelled"] * 2
    assert not [row for row in labels.scores if row["feature"] == HIT and row["balanced_accuracy"]]


def described(body):
    """Return which feature a request asks a description of, or None."""
    prompt = prompt_of(body)
    if wanted(prompt) != "label":
        return None
    return RULES.index(Brain(RULES).best(sections(prompt)[0]))


def test_a_feature_with_few_contexts_has_a_status_and_is_not_asked_about(oracle):
    labels, server = oracle
    row = labels.features[N_FEATURES + 1]
    assert row["status"] == "few_contexts"
    assert row["reason"]
    assert N_FEATURES not in labels.features, "three activations are under min_activations"
    asked = {described(body) for body in server.bodies} - {None}
    assert asked == set(range(N_FEATURES))
    assert len([body for body in server.bodies if described(body) is not None]) == N_FEATURES


def test_explaining_and_judging_use_different_documents(tables, oracle):
    """By the passages that went out; contexts of one document never stand on both sides."""
    import pyarrow.parquet as pq

    documents = {}
    for row in pq.read_table(tables.examples).to_pylist():
        text = "".join(row["tokens"]).strip()
        documents.setdefault(text, set()).add(row["doc_id"])
    used = {True: set(), False: set()}
    for prompt in oracle[1].prompts:
        for section in sections(prompt):
            for passage in section:
                of = documents[" ".join(passage.words)]
                if len(of) == 1:
                    used[wanted(prompt) == "label"] |= of
    assert min(len(used[True]), len(used[False])) > 300
    assert not used[True] & used[False]


def test_one_label_for_all_features_is_no_label(tables, tmp_path):
    class Vague(Brain):
        def explain(self, runs):
            return "words in a text"

    labels, _ = labelled(Vague(RULES), tables, tmp_path, scorers=("detection",))
    assert {labels.features[n]["status"] for n in range(N_FEATURES)} == {"repeated"}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (faults.WRONG_KEY, KEY_NAME),
        (faults.FORBIDDEN, KEY_NAME),
        (faults.UNKNOWN_MODEL, "tester"),
        (faults.NO_QUOTA, "quota"),
    ],
)
def test_what_no_question_can_pass_stops_the_run_in_one_line(tables, tmp_path, fault, words):
    with pytest.raises(ValueError, match=words) as stopped:
        labelled(Brain(RULES), tables, tmp_path, plan=faults.always(fault))
    assert "\n" not in str(stopped.value)
    assert not list(tmp_path.glob("*.parquet"))


def test_a_server_that_is_not_there_stops_the_run_in_one_line(tables, tmp_path):
    with Server(Brain(RULES)) as gone:
        url = gone.url
    with pytest.raises(ValueError, match=re.escape(url)) as stopped:
        label(url, tables, tmp_path, max_retries=0)
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize("structured", ["enforce", "object", "ignore", "reject"])
def test_labels_do_not_depend_on_whether_a_server_keeps_to_a_format(tables, tmp_path, structured):
    settings = {"scorers": ("detection",), "max_features": 5}
    plain, _ = labelled(Brain(RULES), tables, tmp_path / "plain", structured="none", **settings)
    kept, asked = labelled(
        Brain(RULES), tables, tmp_path / "kept", server={"structured": structured}, **settings
    )
    assert kept.features == plain.features
    assert kept.scores == plain.scores
    last = asked.chats[-1]
    assert last.status == 200
    if structured != "ignore":
        assert ("response_format" in last.body) == (structured != "reject")


def test_no_more_requests_are_under_way_than_allowed_and_all_are_used(tables, tmp_path):
    settings = {"scorers": ("detection",), "concurrency": 4, "max_features": 12}
    _, asked = labelled(Brain(RULES), tables, tmp_path, server={"seconds": 0.02}, **settings)
    assert asked.most_busy == 4


def test_the_key_gets_nowhere(tables, tmp_path, caplog):
    plan = faults.every(3, faults.ECHO, faults.ECHO_ERROR, faults.ECHO_LABEL, faults.BROKEN)
    with caplog.at_level(logging.DEBUG):
        _, asked = labelled(Brain(RULES), tables, tmp_path, plan=plan, max_features=8)
        with pytest.raises(ValueError, match=KEY_NAME) as stopped:
            labelled(Brain(RULES), tables, tmp_path / "other", server={"key": "another"})
    assert asked.keys == {f"Bearer {KEY}"}
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 4
    for part in (KEY, KEY[:10], KEY[-10:]):
        assert part not in caplog.text
        assert part not in str(stopped.value)
        assert not any(part.encode() in text for text in written)


class Killer:
    """A plan that lets `n` requests pass, then kills a process; nothing after is answered."""

    def __init__(self, n):
        self.n, self.pid, self.is_dead = n, None, threading.Event()
        self._first = threading.Lock()

    def __call__(self, number, body):
        if number < self.n:
            return None
        if self._first.acquire(blocking=False):
            threading.Event().wait(0.5)  # what was answered before has been kept by now
            os.kill(self.pid, signal.SIGKILL)
            self.is_dead.set()
        self.is_dead.wait()
        return faults.CUT


def test_a_killed_run_asks_nothing_twice_and_ends_in_the_same_bytes(tables, tmp_path):
    settings = {"null_features": 10, "scorers": ("detection", "intruder"), "max_features": 20}
    whole, asked = labelled(Brain(RULES), tables, tmp_path / "whole", **settings)
    port, n_calls = asked.port, len(asked.chats)
    target = tmp_path / "killed"
    target.mkdir()
    killer = Killer(70)
    with Server(Brain(RULES), plan=killer, port=port) as server:
        command = [sys.executable, TESTS / "llm_tables.py", server.url, tables.density.parent]
        killed = subprocess.Popen([*map(str, command), str(target), repr(settings)])
        killer.pid = killed.pid
        assert killed.wait(300) == -signal.SIGKILL
    seen = server.chats
    assert not list(target.glob("*.parquet"))
    settings["server"] = {"port": port}
    resumed, server = labelled(Brain(RULES), tables, target, **settings)
    seen += server.chats
    assert repeated(seen) == []
    assert sum(one.is_answered for one in seen) == n_calls > 150
    assert resumed.bytes() == whole.bytes()
    again, server = labelled(Brain(RULES), tables, target, **settings)
    assert not server.chats
    assert again.bytes() == whole.bytes()


def test_a_budget_ends_cleanly_with_the_most_frequent_features(tables, tmp_path):
    settings = {"scorers": ("detection",), "budget_tokens": 60_000, "max_answer_tokens": 100}
    labels, asked = labelled(Brain(RULES), tables, tmp_path, **settings)
    status = {n: row["status"] for n, row in labels.features.items()}
    done = [n for n in status if status[n] == "labelled"]
    left = [n for n in status if status[n] == "budget"]
    assert len(done) > 2 < len(left)
    least = min(labels.features[n]["n_active"] for n in done)
    assert least >= max(labels.features[n]["n_active"] for n in left)
    bill = json.loads((tmp_path / "bill.json").read_text())
    assert bill["stopped"] == "budget"
    assert bill["tokens_in"] + bill["tokens_out"] <= 60_000
