"""One process makes an output, one workflow a run; both for as long as they live, and no longer."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress

import pytest

from deepseemoe.runtime.claim import WORKFLOW, hold_workflow
from deepseemoe.runtime.lock_file import NOTE_BYTES

# A job of a rule: notes that it has begun, works for some seconds, writes, notes that it has ended.
JOB = """
import logging, os, sys, time
from pathlib import Path
from types import SimpleNamespace
from deepseemoe.runtime.claim import claimed
name, seconds, rule, *outputs = sys.argv[1:]
logging.basicConfig(level="INFO", format="%(message)s")
job = SimpleNamespace(
    output=outputs, input=["given"], params={"k": 3}, config={}, rule=rule,
    wildcards=SimpleNamespace(run="small"),
)
with claimed(job) as is_needed:
    print("begins" if is_needed else "has it", flush=True)
    if is_needed and os.environ.get("FORK") and not os.fork():
        time.sleep(60)
    if is_needed:
        time.sleep(float(seconds))
        for path in map(Path, outputs):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
print("ends", flush=True)
"""

HOLDER = """
import sys, time
from pathlib import Path
from deepseemoe.runtime.claim import hold_workflow
hold_workflow(Path(sys.argv[1]))
print("holds", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def start(tmp_path):
    """Return what starts a process in the folder of the test; none outlives it."""
    (tmp_path / "given").write_text("")
    started = []

    def run(code, *words, **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, words)],
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if k != WORKFLOW} | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def says(process):
    return process.stdout.readline().strip()


MODEL, OTHER = "results/small/model", "results/small/routing/load.parquet"


def test_a_second_job_waits_tells_for_whom_and_takes_over_where_the_first_was_killed(start):
    first = start(JOB, "first", 60, "train_model", MODEL)
    assert says(first) == "begins"
    second = start(JOB, "second", 0, "train_model", MODEL)
    assert start(JOB, "third", 0, "tabulate", OTHER).communicate()[0] == "begins\nends\n"
    told = second.stderr.readline()
    assert f"process {first.pid} on " in told
    assert "rule train_model, since 20" in told
    assert second.poll() is None
    first.kill()
    assert second.communicate(timeout=30) == ("begins\nends\n", "")


def test_what_another_has_made_to_the_end_is_not_made_again(start, tmp_path):
    first = start(JOB, "first", 1.5, "train_model", MODEL)
    assert says(first) == "begins"
    assert start(JOB, "second", 0, "train_model", MODEL).communicate()[0] == "has it\nends\n"
    assert (tmp_path / MODEL).read_text() == "first"


def test_another_rule_or_changed_input_makes_the_output_anew(start, tmp_path):
    first = start(JOB, "first", 1.5, "train_model", MODEL, OTHER)
    assert says(first) == "begins"
    second = start(JOB, "second", 1.5, "randomise_model", MODEL)
    assert says(second) == "begins"
    assert first.communicate()[0] == "ends\n"
    (tmp_path / "given").write_text("changed")
    third = start(JOB, "third", 0, "randomise_model", MODEL)
    assert third.communicate()[0] == "begins\nends\n"
    assert (tmp_path / MODEL).read_text() == "third"


def test_a_fork_of_a_killed_job_holds_nothing(start):
    first = start(JOB, "first", 60, "train_model", MODEL, FORK="1")
    assert says(first) == "begins"
    first.kill()
    assert start(JOB, "second", 0, "train_model", MODEL).communicate(timeout=30)[1] == ""


def test_many_jobs_at_once_are_one_after_the_other(start, tmp_path):
    jobs = [start(JOB, n, 0.05, f"rule_{n}", *(OTHER, MODEL)[:: n % 2 * 2 - 1]) for n in range(6)]
    assert all(job.communicate(timeout=60)[0] == "begins\nends\n" for job in jobs)
    assert (tmp_path / MODEL).read_text() == (tmp_path / OTHER).read_text()


def test_locks_of_a_finished_run_are_equal_to_the_byte(start, tmp_path):
    start(HOLDER, "results/small", 0).communicate()
    start(JOB, "one", 0, "train_model", MODEL).communicate()
    files = sorted((tmp_path / "results/small/.locks").iterdir())
    assert [file.name for file in files] == ["jobs", "workflow"]
    assert all(not any(file.read_bytes()) for file in files)


def test_a_second_workflow_of_a_run_is_refused_until_the_first_is_gone(start):
    first = start(HOLDER, "results/small", 60)
    assert says(first) == "holds"
    told = start(HOLDER, "results/../results/small", 0).communicate()[1].splitlines()[-1]
    assert told.startswith("ValueError: results/../results/small: another workflow makes this run")
    assert f"(process {first.pid} on " in told
    assert start(HOLDER, "results/other", 0).communicate()[0] == "holds\n"
    first.kill()
    first.wait()
    assert start(HOLDER, "results/small", 0).communicate()[0] == "holds\n"


def test_a_job_that_begins_after_its_workflow_was_replaced_does_nothing(start, tmp_path):
    holder = start(HOLDER, "results/small", 60)
    assert says(holder) == "holds"
    told = start(JOB, "late", 0, "train_model", MODEL, **{WORKFLOW: "an earlier one"})
    assert "has taken over" in told.communicate()[1].splitlines()[-1]
    holder.kill()
    holder.wait()
    start(HOLDER, "results/small", 0).communicate()  # a whole workflow, which wipes its note
    told = start(JOB, "later", 0, "train_model", MODEL, **{WORKFLOW: "an earlier one"})
    assert "has taken over" in told.communicate()[1].splitlines()[-1]
    assert not (tmp_path / MODEL).exists()


def test_a_folder_that_cannot_be_written_is_told_in_one_line(start, tmp_path):
    (tmp_path / "results").write_text("a file")
    told = start(HOLDER, "results/small", 0).communicate()[1].splitlines()[-1]
    assert told.startswith("OSError: results/small: nothing can be written there (")


def test_notes_of_the_dead_and_garbage_are_wiped_and_those_of_the_living_are_kept(start, tmp_path):
    job = start(JOB, "one", 60, "train_model", MODEL)
    assert says(job) == "begins"
    jobs, workflow = (tmp_path / f"results/small/.locks/{name}" for name in ("jobs", "workflow"))
    note = jobs.read_bytes().strip(b"\0")
    dead = start(JOB, "two", 60, "tabulate_routing", OTHER)
    assert says(dead) == "begins"
    dead.kill()
    dead.wait()
    for path, where in ((jobs, jobs.read_bytes().find(bytes(2 * NOTE_BYTES))), (workflow, 0)):
        path.touch()
        with open(path, "r+b") as file:
            file.seek(where + NOTE_BYTES // 2)
            file.write(b"\xff{garbage")
    assert says(start(HOLDER, "results/small", 60)) == "holds"
    deadline = time.monotonic() + 30
    while jobs.read_bytes().strip(b"\0") != note:  # the rest is wiped right after
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert b"garbage" not in workflow.read_bytes()
    assert start(HOLDER, "results/small", 0).wait() == 1, "the first holds the run"
    assert says(start(JOB, "three", 0, "tabulate_routing", OTHER)) == "begins"


@pytest.mark.parametrize(("odd", "kind"), [(".locks", "folder"), (".locks/workflow", "file")])
def test_what_stands_where_locks_belong_is_named(tmp_path, odd, kind):
    path = tmp_path / odd
    path.parent.mkdir(exist_ok=True)
    path.write_text("") if kind == "folder" else path.mkdir()
    with pytest.raises(OSError, match=f"^{path}: no {kind}, where jobs hold locks; delete it$"):
        hold_workflow(tmp_path)
