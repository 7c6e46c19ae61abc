"""On a real GPU: a job sees what it leased, as cuda:0, and one job at a time does."""

import json
import os
import subprocess
import sys

import pytest
import torch

from deepseemoe.runtime.gpus import gpus_here

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

JOB = """
import json, os, sys, time
from types import SimpleNamespace
from deepseemoe.runtime.pins import encoded
from deepseemoe.runtime.stage import devices, run_stage

def main(job):
    import torch
    assert not torch.cuda.is_initialized()
    names = devices(job)
    began = time.monotonic()
    value = torch.arange(1000, device=names[0]).sum()
    torch.cuda.synchronize()
    time.sleep(1)
    uuid = str(torch.cuda.get_device_properties(0).uuid)
    found = [names, os.environ["CUDA_VISIBLE_DEVICES"], torch.cuda.device_count(), uuid]
    print(json.dumps([*found, str(value.device), int(value), began, time.monotonic()]))

def fill(job):
    import torch
    name = devices(job)[0]
    free, total = torch.cuda.mem_get_info(0)
    n_gib = int(0.8 * total) >> 30
    held = [torch.zeros(2**30, dtype=torch.uint8, device=name) for _ in range(n_gib)]
    torch.cuda.synchronize()
    print(json.dumps([free / total, len(held)]), flush=True)
    if sys.argv[3] == "killed":
        os.kill(os.getpid(), 9)

pins = json.loads(sys.argv[1])
asked = {"pins": encoded([pins])} if pins else {}
stage = {"main": main, "fill": fill}[sys.argv[2]]
run_stage(stage, SimpleNamespace(resources=asked, rule="train", threads=1, log=[], output=[]))
"""


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPSEEMOE_LOCKS", str(tmp_path / "locks"))
    for name in ("DEEPSEEMOE_FAKE_GPUS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    return gpus_here().gpus


def started(*pins, stage="main", end="ended"):
    call = [sys.executable, "-c", JOB, json.dumps(pins), stage, end]
    return subprocess.Popen(call, stdout=subprocess.PIPE, text=True)


def ended(process):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(out)


def test_the_machine_shows_what_torch_sees(gpus):
    assert len(gpus) == torch.cuda.device_count()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") or all(g.lock.startswith("GPU-") for g in gpus)


def test_two_jobs_compute_on_the_gpu_one_after_the_other(gpus):
    last = len(gpus) - 1
    found = sorted(map(ended, [started(last), started(last)]), key=lambda job: job[6])
    for names, shown, n_seen, uuid, device, value, _, _ in found:
        assert (names, n_seen, device, value) == (["cuda:0"], 1, "cuda:0", 499500)
        assert shown == gpus[last].id
        assert gpus[last].lock in (f"GPU-{uuid}", shown)
    assert found[0][7] < found[1][6]


def test_each_job_finds_the_memory_of_the_one_before_free(gpus):
    ends = ["ended", "killed", "ended", "ended"]
    jobs = [started(0, stage="fill", end=end) for end in ends]
    told = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [{"ended": 0, "killed": -9}[end] for end in ends]
    for free, n_gib in map(json.loads, told):
        assert n_gib > 0
        assert free > 0.9


def test_a_job_that_asks_for_none_sees_none(gpus):
    process = started()
    process.communicate(timeout=300)
    assert process.returncode == 1  # its tensor of cuda has no GPU to go to


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_pins_name_the_gpus_that_nvidia_smi_lists(gpus):
    names, shown, n_seen, uuid, *_ = ended(started(1, 0))
    assert (names, shown, n_seen) == (["cuda:0", "cuda:1"], f"{gpus[1].id},{gpus[0].id}", 2)
    assert gpus[1].lock == f"GPU-{uuid}"
