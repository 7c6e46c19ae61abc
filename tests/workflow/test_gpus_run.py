"""GPUs in whole workflows, of our rules and our lease; the GPUs are pretended, the locks are not."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from runs import ROOT, command, prepare

HERE = Path(__file__).with_name("gpu_jobs")
BOTH = {"activations": "cuda:0", "dictionary": "cuda:1"}


@pytest.fixture
def locks(tmp_path, monkeypatch):
    """Give all workflows of a test the same locks, of their own."""
    monkeypatch.setenv("DEEPSEEMOE_LOCKS", str(tmp_path / "locks"))
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


def begun(folder, devices, jobs, *arguments, n_gpus=2):
    """Start the workflow of gpu_jobs in a folder."""
    folder.mkdir(exist_ok=True)
    source = {"source": str(ROOT / "src"), "rules": str(ROOT / "rules/gpus.smk")}
    (folder / "config.yaml").write_text(yaml.safe_dump(source | {"devices": devices, "jobs": jobs}))
    call = [sys.executable, "-m", "snakemake", "--snakefile", str(HERE / "Snakefile"), "--nolock"]
    call += ["--directory", str(folder), "--cores", "8", "--quiet", "rules", "progress"]
    return subprocess.Popen(
        [*call, "--configfile", str(folder / "config.yaml"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"DEEPSEEMOE_FAKE_GPUS": str(n_gpus)},
    )


def ended(process, folder):
    """Wait for a workflow, and return what its jobs were given and what stood on screen."""
    screen = process.communicate(timeout=300)[0]
    assert process.returncode == 0, screen
    return events(folder), screen


def events(*folders):
    lines = [(folder / "events.jsonl").read_text().splitlines() for folder in folders]
    return [json.loads(line) for part in lines for line in part]


def clashes(found):
    """Return the pairs of jobs that held a GPU at the same time."""
    return [
        (one["job"], other["job"])
        for one, other in combinations(found, 2)
        if one["began"] < other["ended"]
        and other["began"] < one["ended"]
        and set(one["gpus"].split(",")) & set(other["gpus"].split(","))
    ]


def given(found):
    """Return which GPUs the jobs of each rule were given."""
    rules = {event["job"].partition("-")[0] for event in found}
    return {
        rule: sorted({event["gpus"] for event in found if event["job"].startswith(rule)})
        for rule in rules
    }


def test_pinned_jobs_keep_to_their_gpus_whatever_resources_say(tmp_path, locks):
    """The pins are reversed, and the cap that is asked for is absurd."""
    folder = tmp_path / "run"
    devices = {"activations": "cuda:1", "dictionary": "cuda:0", "evaluation": 2}
    jobs = [f"{rule}-{n}" for rule in ("capture", "train") for n in range(3)]
    absurd = ("--resources", "gpu=0", "cuda0=9", "gpus_here=9")
    process = begun(folder, devices, [*jobs, "live-0", "evaluate-0"], *absurd)
    found, screen = ended(process, folder)
    assert given(found) == {"capture": ["1"], "train": ["0"], "live": ["1,0"], "evaluate": ["0,1"]}
    assert clashes(found) == []
    assert "waiting for GPU" not in screen  # Snakemake never starts what would wait
    assert "WARNING: devices" not in screen


def test_two_workflows_and_the_orphans_of_a_killed_one_share_no_gpu(tmp_path, locks):
    """The first is killed -9 while its jobs run on, held; both others then wait for these."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    (first / "hold").touch()
    devices = {"activations": "cuda", "dictionary": "cuda:1"}
    killed = begun(first, BOTH, ["capture-0", "train-0"])
    while len([*first.glob("*.begun")]) < 2:
        assert killed.poll() is None
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    (first / "hold").rename(first / "held")
    (first / "held").rename(first / "hold")
    again = begun(second, BOTH, ["capture-1", "train-1", "live-1"])
    beside = begun(tmp_path / "third", devices, ["capture-2", "train-2", "capture-3"])
    time.sleep(3)
    assert not (second / "events.jsonl").exists()
    (first / "hold").unlink()
    _, screen = ended(again, second)
    ended(beside, tmp_path / "third")
    killed.communicate()
    found = events(first, second, tmp_path / "third")
    assert len(found) == 2 + 3 + 3
    assert clashes(found) == []
    assert "held by process" in screen


@pytest.mark.parametrize("n_gpus", [0, 1])
def test_the_same_configuration_runs_on_fewer_gpus(n_gpus, tmp_path, locks):
    folder = tmp_path / "run"
    process = begun(folder, BOTH, ["capture-0", "train-0", "live-0", "train-1"], n_gpus=n_gpus)
    found, screen = ended(process, folder)
    assert {event["gpus"] for event in found} == {"0" if n_gpus else ""}
    assert {tuple(event["devices"]) for event in found} == {("cpu",)}
    if n_gpus:
        assert clashes(found) == []
        assert "waiting for GPU" not in screen
    told = [line for line in screen.splitlines() if line.startswith("WARNING: devices")]
    assert len(told) == 1
    assert ("computed on the CPU" in told[0], "which stages share" in told[0]) == (
        n_gpus == 0,
        n_gpus == 1,
    )


def test_a_run_that_requires_a_gpu_refuses_before_anything_runs(tmp_path, locks):
    process = begun(tmp_path / "run", BOTH | {"require_gpu": True}, ["train-0"], n_gpus=0)
    screen = process.communicate(timeout=300)[0]
    assert process.returncode == 1
    assert "devices.require_gpu is true; run where there is one, or write cpu" in screen
    assert not (tmp_path / "run/train-0.begun").exists()


SHARED = {"gpu": 1, "gpus_here": 1}
LAYOUT = {"activations": "cuda:1", "dictionary": ["cuda:1", "cuda:0"], "features": "cuda"}


def test_the_rules_of_the_workflow_carry_what_their_stage_asks_for(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPSEEMOE_FAKE_GPUS", "2")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    file = tmp_path / "devices.yaml"
    file.write_text(yaml.safe_dump({"devices": LAYOUT}))
    small = ROOT / "tests/config/small.yaml"
    call = command(prepare(tmp_path), (small, file), "--dry-run", "all", "justify")
    done = subprocess.run(call, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    found = resources(done.stdout)
    capture = SHARED | {"pins": 3, "cuda1": 1}
    assert found["cache_activations"] == found["compare_centroids"] == capture
    assert found["cache_layers"] == capture
    both = {"gpu": 2, "nodes": 1, "pins": 3 * 32 + 2, "cuda0": 1, "cuda1": 1, "gpus_here": 2}
    assert found["train_dictionary"] == both
    assert found["train_arm"] == capture  # it computes on one device, the first
    assert found["encode_features"] == SHARED | {"pins": 1}
    assert found["train_model"] == found["evaluate_dictionary"] == found["map_reads"] == {}


def resources(screen):
    """Return what a job of each rule asks for of GPUs, of what a dry run prints."""
    found, rule = {}, None
    for line in screen.splitlines():
        words = line.split()
        if words[:1] in (["rule"], ["localrule"]):
            rule = words[1].removesuffix(":")
        elif words[:1] == ["resources:"]:
            pairs = [word.removesuffix(",").split("=") for word in words[1:]]
            names = ("gpu", "pins", "nodes", "cuda", "gpus_here")
            found[rule] = {key: int(value) for key, value in pairs if key.startswith(names)}
    return found
