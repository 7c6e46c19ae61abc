"""GPUs in whole workflows, of our rules and lease: the GPUs are pretended, the locks are not."""

import json
import os
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from runs import ROOT, prepare

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
    with open(folder / "screen", "w") as screen:
        return subprocess.Popen(
            [*call, "--configfile", str(folder / "config.yaml"), *arguments],
            stdout=screen,
            stderr=subprocess.STDOUT,
            env=os.environ | {"DEEPSEEMOE_FAKE_GPUS": str(n_gpus)},
        )


def ended(process, folder):
    """Wait for a workflow, and return what its jobs were given and what stood on screen."""
    status, screen = process.wait(300), (folder / "screen").read_text()
    assert status == 0, screen
    return events(folder), screen


def until(question, process):
    """Wait until something is so, while a workflow runs."""
    while not question():
        assert process.poll() is None
        time.sleep(0.05)


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
    until(lambda: len([*first.glob("*.begun")]) == 2, killed)
    killed.kill()
    killed.wait()
    again = begun(second, BOTH, ["capture-1", "train-1", "live-1"])
    beside = begun(tmp_path / "third", devices, ["capture-2", "train-2", "capture-3"])
    until(lambda: (second / "screen").read_text().count("held by process") == 2, again)
    (first / "hold").unlink()
    ended(again, second)
    ended(beside, tmp_path / "third")
    found = events(first, second, tmp_path / "third")
    assert len(found) == 2 + 3 + 3
    assert clashes(found) == []
    orphans = [event["ended"] for event in found if event["job"] in ("capture-0", "train-0")]
    assert min(event["began"] for event in found if event["job"] == "live-1") > max(orphans)


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
    devices = BOTH | {"require_gpu": True}
    process = begun(tmp_path / "run", devices, ["train-0"], n_gpus=0)
    assert process.wait(300) == 1
    screen = (tmp_path / "run/screen").read_text()
    assert "devices.require_gpu is true; run where there is one, or write cpu" in screen
    assert not (tmp_path / "run/train-0.begun").exists()
    # What is left to do asks for none: evaluation is on the CPU.
    ended(begun(tmp_path / "other", devices, ["evaluate-0"], n_gpus=0), tmp_path / "other")


def test_what_pretends_no_number_of_gpus_is_told_in_a_line(tmp_path, locks):
    process = begun(tmp_path / "run", BOTH, ["train-0"], n_gpus=-1)
    assert process.wait(300) == 1
    lines = (tmp_path / "run/screen").read_text().strip().splitlines()
    assert lines[-1] == "DEEPSEEMOE_FAKE_GPUS: '-1' is no number of GPUs; write 0 to 99"
    assert not [line for line in lines if "File" in line and ", line " in line]


ASKED = """
import json
include: {root!r}
names = [*("gpu", "nodes", "pins", "gpus_here"), *(f"cuda{{n}}" for n in range(4))]
with open("asked.json", "w") as file:
    for rule in workflow.rules:
        asked = {{name: rule.resources.get(name) for name in names}}
        asked = {{name: value.value for name, value in asked.items() if value}}
        file.write(json.dumps([rule.name, asked]) + "\\n")
"""


def asked_by_rules(workdir, n_gpus, **config):
    """Return what each rule of the whole workflow asks for of GPUs."""
    prepare(workdir)
    (workdir / "Snakefile").write_text(ASKED.format(root=str(ROOT / "Snakefile")))
    (workdir / "more.yaml").write_text(yaml.safe_dump(config))
    call = [sys.executable, "-m", "snakemake", "--directory", workdir, "--list-rules"]
    call += ["--snakefile", workdir / "Snakefile", "--configfile", workdir / "more.yaml"]
    environment = os.environ | {"DEEPSEEMOE_FAKE_GPUS": str(n_gpus)}
    done = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = (workdir / "asked.json").read_text().splitlines()
    asked = dict(map(json.loads, lines))
    return {rule: {k: v for k, v in of.items() if v is not None} for rule, of in asked.items()}


def test_the_rules_of_the_workflow_carry_what_their_stages_ask_for(tmp_path, locks):
    devices = {"activations": "cuda:1", "dictionary": ["cuda:1", "cuda:0"], "features": "cuda"}
    asked = asked_by_rules(tmp_path, 2, devices=devices)
    one = {"gpu": 1, "pins": 3, "cuda1": 1, "gpus_here": 1}
    of_activations = (
        "cache_activations",
        "cache_layers",
        "compare_centroids",
        "measure_saturation",
    )
    assert [asked[rule] for rule in of_activations] == [one] * 4
    both = {"gpu": 2, "nodes": 1, "pins": 3 * 32 + 2, "cuda0": 1, "cuda1": 1, "gpus_here": 2}
    assert asked["train_dictionary"] == both
    assert asked["train_arm"] == one  # it computes on one device: the first of those
    assert asked["encode_features"] == {"gpu": 1, "pins": 1, "gpus_here": 1}
    for rule in ("train_model", "evaluate_dictionary", "map_reads", "write_config", "all"):
        assert asked[rule] == {}


def test_live_training_asks_for_the_gpus_of_both_its_stages(tmp_path, locks):
    devices = {"activations": "cuda:3", "dictionary": "cuda:0"}
    asked = asked_by_rules(tmp_path, 1, devices=devices, batches={"source": "live"})
    pins = (5 * 32 + 0) * 32 + 2
    assert asked["train_live"] == {"gpu": 2, "nodes": 1, "pins": pins, "cuda0": 1, "gpus_here": 1}
