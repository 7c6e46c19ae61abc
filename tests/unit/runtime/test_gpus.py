"""Which GPUs a process may use is found without torch, on all kinds of machines."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from deepseemoe.runtime.gpus import Gpu, gpus_here

UUIDS = ("GPU-1a2b", "GPU-1a9c", "GPU-7d00")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return what makes a machine of an nvidia-smi and of device files, and what looks at it."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def made(n_listed=0, n_files=0, status=0, **environment):
        lines = [f"echo '{number}, {uuid}'" for number, uuid in enumerate(UUIDS[:n_listed])]
        smi = tmp_path / "nvidia-smi"
        smi.write_text("\n".join(["#!/bin/sh", *lines, f"exit {status}"]))
        smi.chmod(0o755)
        for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{number}" for number in range(n_files))):
            (tmp_path / name).touch()
        return gpus_here(environment, devices=tmp_path)

    return made


def ids(found):
    return [gpu.id for gpu in found.gpus]


def test_nvidia_smi_lists_them(machine):
    found = machine(n_listed=3, n_files=3)
    assert found.gpus == tuple(Gpu(str(number), uuid) for number, uuid in enumerate(UUIDS))


def test_gpus_are_there_though_nvidia_smi_is_broken(machine):
    assert ids(machine(n_files=2, status=9)) == ["0", "1"]
    assert ids(machine(n_listed=1, n_files=2, status=9)) == ["0", "1"]


def test_a_machine_without_gpus_says_so(machine, tmp_path):
    assert machine(status=9)[::3] == ((), "this machine has none")
    (tmp_path / "nvidia-smi").unlink()
    assert gpus_here({}, devices=tmp_path).gpus == ()


@pytest.mark.parametrize(
    ("shown", "locks"),
    [
        ("2,0", (2, 0)),
        ("1", (1,)),
        ("GPU-7d00,GPU-1a2b", (2, 0)),
        ("GPU-7", (2,)),
        ("0,0", (0,)),
        ("0,GPU-1a2b", (0,)),
        ("1,-1,0", (1,)),
        ("1,7,0", (1,)),
        ("-1", ()),
        ("", ()),
        ("NoDevFiles", ()),
    ],
)
def test_cuda_visible_devices_says_which(shown, locks, machine):
    found = machine(n_listed=3, CUDA_VISIBLE_DEVICES=shown)
    assert tuple(gpu.lock for gpu in found.gpus) == tuple(UUIDS[number] for number in locks)
    if not locks:
        assert found.why_none == f"CUDA_VISIBLE_DEVICES is {shown!r}"


def test_a_slice_of_a_gpu_is_taken_at_its_word(machine):
    found = machine(n_listed=3, CUDA_VISIBLE_DEVICES="MIG-44,GPU-1a")
    assert found.gpus == (Gpu("MIG-44", "MIG-44"), Gpu("GPU-1a", "GPU-1a"))  # two begin so


def test_pretended_gpus_take_the_place_of_real_ones(machine):
    assert ids(machine(n_listed=3, DEEPSEEMOE_FAKE_GPUS="2")) == ["0", "1"]
    assert ids(machine(n_listed=3, DEEPSEEMOE_FAKE_GPUS="0")) == []
    assert ids(machine(DEEPSEEMOE_FAKE_GPUS="4", CUDA_VISIBLE_DEVICES="3,1")) == ["3", "1"]
    with pytest.raises(ValueError, match="DEEPSEEMOE_FAKE_GPUS: 'two' is no number of GPUs"):
        machine(DEEPSEEMOE_FAKE_GPUS="two")


def test_in_a_job_of_slurm_its_grant_is_all_there_is(machine):
    granted = machine(n_listed=3, SLURM_JOB_ID="12", CUDA_VISIBLE_DEVICES="2,5")
    assert ids(granted) == ["2", "5"]
    other = machine(n_listed=3, SLURM_JOB_ID="13", CUDA_VISIBLE_DEVICES="2,5")
    assert not {gpu.lock for gpu in granted.gpus} & {gpu.lock for gpu in other.gpus}
    for nothing in ({}, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, {"CUDA_VISIBLE_DEVICES": ""}):
        found = machine(n_listed=3, SLURM_JOB_ID="12", **nothing)
        assert (found.gpus, found.why_none) == ((), "SLURM granted none to its job 12")
    fake = machine(SLURM_JOB_ID="12", CUDA_VISIBLE_DEVICES="1", DEEPSEEMOE_FAKE_GPUS="2")
    assert (ids(fake), fake.are_fake) == (["1"], True)


def test_nothing_that_looks_for_gpus_imports_torch():
    code = (
        "import sys, deepseemoe.runtime.stage, deepseemoe.preflight, deepseemoe.runtime.lease;"
        "from deepseemoe.runtime.gpus import gpus_here; gpus_here(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    "script",
    sorted((Path(__file__).parents[3] / "workflow/scripts").glob("*.py")),
    ids=lambda path: path.stem,
)
def test_no_script_imports_what_could_open_a_gpu_before_the_lease(script):
    """All that is imported before `run_stage` is what the test above looks at."""
    tree = ast.parse(script.read_text())
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert modules <= {"typing", "deepseemoe.runtime.stage"}
