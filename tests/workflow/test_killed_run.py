"""A run that is killed in the middle of every stage ends in the bytes of one that was not."""

import os
import signal
import subprocess
import time
from pathlib import Path

from runs import ROOT, command, digests, prepare, snakemake

SMALL = ROOT / "tests/config/small.yaml"
# The rule, and how long it has worked when the kill comes (seconds after its log file appears).
KILLS = [
    ("prepare_tokenizer", 3.0),
    ("pack_corpus", 4.0),
    ("train_model", 9.0),
    ("train_model", 12.0),
    ("cache_activations", 6.0),
    ("train_dictionary", 6.0),
    ("train_dictionary", 8.0),
    ("evaluate_dictionary", 5.0),
    ("encode_features", 4.0),
    ("collect_examples", 2.0),
    ("tabulate_routing", 2.0),
    ("map_reads", 5.0),
    ("map_writes", 5.0),
    ("label_features", 3.0),
    ("label_experts", 1.0),
    ("draw_figures", 2.0),
    ("write_summary", 1.0),
]


def newest_log(workdir: Path, rule: str) -> float:
    """Return when the newest log of a rule was begun; 0 where there is none."""
    logs = [*workdir.glob(f"logs/small/{rule}.log"), *workdir.glob(f"logs/small/{rule}/*.log")]
    return max((log.stat().st_mtime for log in logs), default=0.0)


def kill_within(workdir: Path, rule: str, seconds: float) -> bool:
    """Start the run and kill -9 all of it `seconds` into `rule`; return whether it was at work."""
    started = time.time()
    process = subprocess.Popen(
        command(workdir, SMALL, "--cores", "2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    while process.poll() is None and newest_log(workdir, rule) < started:
        time.sleep(0.05)
    if process.poll() is None:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
    return False


def test_a_killed_run_ends_in_the_same_bytes(small_run, tmp_path):
    workdir = prepare(tmp_path / "killed")
    n_killed = 0
    for rule, seconds in KILLS:
        n_killed += kill_within(workdir, rule, seconds)
        snakemake(workdir, SMALL, "--unlock")
    done = snakemake(workdir, SMALL)
    assert done.returncode == 0, done.stdout[-8000:]
    assert n_killed >= len(KILLS) // 2
    whole, killed = digests(small_run / "results"), digests(workdir / "results")
    assert sorted(whole) == sorted(killed)
    assert [name for name in whole if whole[name] != killed[name]] == []
