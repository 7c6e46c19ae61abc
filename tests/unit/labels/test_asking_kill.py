"""A run that is killed by SIGKILL at any point asks nothing again, and ends in the same results."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import llm_faults as faults
import pytest
from asking_world import KEY, VARIABLE, brain
from killed_asker import N_ITEMS
from llm_server import Server

from deepseemoe.runtime.files import read_json

HERE = Path(__file__).parent


def start(folder, url, outcome):
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), str(HERE.parents[2] / "src")])
    environment = {**os.environ, "PYTHONPATH": path, VARIABLE: KEY}
    command = [sys.executable, str(HERE / "killed_asker.py"), str(folder), url, str(outcome)]
    return subprocess.Popen(command, env=environment)


def finish(*args):
    process = start(*args)
    assert process.wait(timeout=120) == 0
    return read_json(args[-1])


def plan(number, body):
    """Fail for a while on some requests, and for good on some contents."""
    passing = faults.every(7, faults.busy(0.001), faults.CUT, faults.BROKEN)(number, body)
    lasting = faults.by_content(0.2, faults.PROSE, faults.REFUSED, faults.EMPTY, faults.WRONG_JSON)
    return passing or lasting(number, body)


def kept_lines(folder):
    return sorted((folder / "features.jsonl").read_bytes().splitlines())


@pytest.mark.parametrize("seed", [0])
def test_a_killed_run_repeats_no_answered_request_and_ends_in_the_same_bytes(tmp_path, seed):
    random_ = random.Random(seed)
    with Server(brain, plan=plan, seconds=0.01) as server:
        whole = finish(tmp_path / "whole", server.url, tmp_path / "whole.json")
        assert not server.repeated()
        n_whole = sum(one.is_answered for one in server.chats)
        server.requests.clear()
        for share in sorted(random_.uniform(0.1, 0.9) for _ in range(2)):
            process = start(tmp_path / "killed", server.url, tmp_path / "killed.json")
            while len(server.chats) < share * n_whole and process.poll() is None:
                time.sleep(0.001)
            time.sleep(random_.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
            assert process.wait(timeout=60) == -signal.SIGKILL
        killed = finish(tmp_path / "killed", server.url, tmp_path / "killed.json")
        assert server.repeated() == [], "what was under way was received, and is not asked again"
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert kept_lines(tmp_path / "killed") == kept_lines(tmp_path / "whole")
    n_done = sum(item is not None for item in killed["found"])
    assert 10 < n_done < N_ITEMS
    assert killed["bill"]["stopped"] == "budget"
    assert killed["bill"]["usd"] <= 0.0024
    assert whole["bill"]["failures"].keys() >= {"refused"}
