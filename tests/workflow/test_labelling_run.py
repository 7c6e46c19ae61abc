"""Labels of a whole run by a server that fails, with the run killed in the middle of it.

What was answered before the kill is not asked again, the tables are those of a run that was not
killed, and the key stands in no file that the workflow writes.
"""

import json
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import llm_faults as faults
import pyarrow.parquet as pq
import pytest
from llm_brains import Lexical
from llm_server import Server
from runs import ROOT, command, snakemake

SMALL = ROOT / "tests/config/small.yaml"
TABLES = "results/small/labels/crosscoder/L00-L01"
TARGETS = [f"{TABLES}/features.parquet"]
KEY_NAME, KEY = "DEEPSEEMOE_TEST_KEY", "sk-nobody-may-read-this-0123456789"
KILLED_AFTER = 60


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(KEY_NAME, KEY)


def copied(small_run, target):
    """Copy a finished run; its large stores are linked, since no stage writes into them."""
    linked = {"activations", "corpus", "dictionary", "model"}

    def copy(source, destination):
        parts = Path(source).relative_to(small_run).parts
        is_linked = parts[0] == "results" and parts[2] in linked
        return (os.link if is_linked else shutil.copy2)(source, destination)

    return Path(shutil.copytree(small_run, target, copy_function=copy, symlinks=True))


def settings(server):
    """Return the options that label the run by a server."""
    labels = {
        "labeller": "openai",
        "base_url": server.url,
        "model": "tester",
        "api_key_env": KEY_NAME,
        "max_features": 10,
        "null_features": 4,
        "per_prompt": 5,
        "max_retries": 3,
    }
    return ["--config", f"labels={json.dumps(labels)}"]


class Killer:
    """A plan that lets requests pass, by a plan of their own, then kills a group of processes."""

    def __init__(self, plan):
        self.plan, self.group, self.is_dead = plan, None, threading.Event()
        self._first = threading.Lock()

    def __call__(self, number, body):
        if self.is_dead.is_set() or number < KILLED_AFTER:
            return self.plan(number, body)
        if self._first.acquire(blocking=False):
            threading.Event().wait(0.5)  # what was answered before has been kept by now
            os.killpg(self.group, signal.SIGKILL)
            self.is_dead.set()
        self.is_dead.wait()
        return faults.CUT


FAILS = faults.by_content(0.2, *faults.UNREADABLE, faults.REFUSED, faults.ECHO, faults.ECHO_ERROR)


def test_a_killed_labelling_asks_nothing_twice_and_keeps_the_key(small_run, tmp_path):
    whole, killed = copied(small_run, tmp_path / "whole"), copied(small_run, tmp_path / "killed")
    said = []
    with Server(Lexical(), plan=FAILS) as server:
        done = snakemake(whole, SMALL, *settings(server), "--", *TARGETS)
        port = server.port
        said.append(done.stdout)
    assert done.returncode == 0, done.stdout[-8000:]
    killer = Killer(FAILS)
    with Server(Lexical(), plan=killer, port=port) as server:
        process = subprocess.Popen(
            command(killed, SMALL, *settings(server), "--", *TARGETS),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        killer.group = process.pid
        said.append(process.communicate()[0])
        assert killer.is_dead.is_set(), said[-1][-8000:]
        assert not (killed / TABLES / "features.parquet").exists()
        said.append(snakemake(killed, SMALL, *settings(server), "--unlock").stdout)
        done = snakemake(killed, SMALL, *settings(server), "--", *TARGETS)
        said.append(done.stdout)
    assert done.returncode == 0, done.stdout[-8000:]
    assert sum(one.is_answered for one in server.chats) > KILLED_AFTER + 20
    assert server.repeated() == []
    for name in ("features.parquet", "scores.parquet", "bill.json"):
        assert (killed / TABLES / name).read_bytes() == (whole / TABLES / name).read_bytes()
    _has_counted(whole / TABLES)
    assert server.keys == {f"Bearer {KEY}"}
    for text in [*said, *_written(whole), *_written(killed)]:
        for part in (KEY, KEY[:12], KEY[-12:]):
            assert part.encode() not in (text.encode() if isinstance(text, str) else text)


def _has_counted(folder):
    features = pq.read_table(folder / "features.parquet").to_pylist()
    scores = pq.read_table(folder / "scores.parquet").to_pylist()
    assert len(features) == 10
    assert "labelled" in {row["status"] for row in features}
    assert sum(row["n_failed"] for row in scores) > 10
    bill = json.loads((folder / "bill.json").read_text())
    assert bill["calls"] > 50
    assert bill["tokens_in"] > 10_000
    assert set(bill["failures"]) & {"unreadable", "refused", "rejected"}


def _written(workdir):
    """Yield the bytes of every file that a run wrote, logs and .snakemake too."""
    files = [path for path in workdir.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 100
    assert any(".snakemake" in path.parts for path in files)
    return (path.read_bytes() for path in files)
