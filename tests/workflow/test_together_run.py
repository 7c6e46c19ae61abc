"""Jobs that train several dictionaries: one pass, and the bytes of jobs that train one."""

import shutil

import pytest
from runs import ROOT, digests, planned, snakemake

SMALL = ROOT / "tests/config/small.yaml"
TOGETHER = (SMALL, ROOT / "tests/config/together.yaml")


def before_training(small_run, workdir):
    """Copy a finished run, and take away its dictionaries."""
    shutil.copytree(small_run, workdir)
    shutil.rmtree(workdir / "results/small/dictionary")
    return workdir


def test_jobs_are_planned_for_groups(tmp_path, small_run):
    plan = planned(before_training(small_run, tmp_path / "run"), TOGETHER)
    assert plan["train_together_00"] == plan["train_together_01"] == 1
    assert "train_dictionary" not in plan
    assert "train_together_02" not in plan


@pytest.mark.parametrize(("device", "n_jobs"), [("cpu", 4), ("cuda", 1)])
def test_auto_plans_by_the_memory_of_a_gpu(device, n_jobs, tmp_path, small_run):
    workdir = before_training(small_run, tmp_path / "run")
    file = tmp_path / "auto.yaml"
    file.write_text(f"batches: {{together: auto}}\ndevices: {{dictionary: {device}}}\n")
    plan = planned(workdir, (SMALL, file), "--resources", "gpu=1")
    assert sum(rule.startswith("train_together") for rule in plan) == n_jobs


def test_dictionaries_trained_together_are_those_trained_alone(small_run, tmp_path):
    workdir = before_training(small_run, tmp_path / "run")
    targets = [f"train_together_0{number}" for number in (0, 1)]
    done = snakemake(workdir, TOGETHER, "--until", *targets)
    assert done.returncode == 0, done.stdout[-8000:]
    folder = "results/small/dictionary"
    made, alone = digests(workdir / folder), digests(small_run / folder)
    trained = {name: alone[name] for name in alone if not name.endswith("metrics.json")}
    assert {name: made[name] for name in trained} == trained
    seeds = [made[f"{name}/L01-L01/weights.safetensors"] for name in
             ("crosscoder", "crosscoder-seed-1")]  # fmt: skip
    assert seeds[0] != seeds[1]
    assert planned(workdir, TOGETHER, "--until", *targets) == {}
