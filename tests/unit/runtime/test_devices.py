"""Devices that are not there are told before anything loads, and a lack of memory in words."""

import pytest
import torch

from deepseemoe.config import DevicesConfig
from deepseemoe.runtime.devices import (
    check_devices,
    problem_of_gpus,
    problem_of_grant,
    remarks_on_gpus,
)
from deepseemoe.runtime.gpus import Gpu, Gpus
from deepseemoe.runtime.memory import GIB, free_bytes, out_of_memory


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize("names", [["cpu"], ["cuda"], ["cuda:0"]])
def test_devices_that_are_there_pass(one_gpu, names):
    check_devices(names)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["cuda:0", "cuda:1", "cuda:2"], "cuda:1, cuda:2 asked for, and torch sees 1 GPU; write f"),
        (["cpu", "cuda:0"], "cpu cannot be used; name cpu alone"),
        (["gpu"], "gpu cannot be used"),
        (["cuda:-1"], "cuda:-1 cannot be used"),
        ([], "none is named"),
    ],
)
def test_devices_that_are_not_there_are_told(one_gpu, names, told):
    with pytest.raises(ValueError, match=told):
        check_devices(names)


def test_what_hides_gpus_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told = r"torch sees no GPU \(CUDA_VISIBLE_DEVICES is ''\); .*, or write cpu at `devices`"
    with pytest.raises(ValueError, match=told):
        check_devices(["cuda:0"])


def remarks(n_gpus, **devices):
    gpus = Gpus(tuple(Gpu(str(number), "") for number in range(n_gpus)), why_none="there is none")
    return [*remarks_on_gpus(DevicesConfig(**devices), gpus)]


def test_what_a_run_does_without_is_told_in_one_line():
    both = {"activations": "cuda:0", "dictionary": "cuda:1"}
    (told,) = remarks(0, **both)
    assert told == (
        "devices: activations, dictionary ask for a GPU, and there is none: computed on the CPU"
    )
    (told,) = remarks(1, **both)
    assert told.startswith("devices: 2 GPUs are asked for, and 1 is here (GPU 0), which stages sh")
    (told,) = remarks(2, evaluation=3)
    assert told.startswith("devices: 3 GPUs are asked for, and 2 are here (GPU 0, GPU 1), which")
    assert remarks(2, **both) == remarks(1, activations="cuda") == remarks(0) == []


def test_a_run_may_refuse_to_compute_on_the_cpu():
    none, one = Gpus((), why_none="there is none"), Gpus((Gpu("0", ""),))
    devices = DevicesConfig(activations="cuda", require_gpu=True)
    told = (
        "devices: activations asks for a GPU, there is none, and devices.require_gpu is true; run"
    )
    assert problem_of_gpus(devices, none).startswith(told)
    assert problem_of_gpus(devices, one) is None
    assert problem_of_gpus(DevicesConfig(activations="cuda"), none) is None
    assert problem_of_gpus(DevicesConfig(require_gpu=True), none) is None


def test_memory_of_the_cpu_is_what_is_free():
    assert 0 < free_bytes("cpu") < 2**50


def test_memory_that_torch_holds_and_does_not_use_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * GIB, 8 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 2 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: GIB)
    assert free_bytes("cuda:0") == 4 * GIB


ON_GPU = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of "
    "which 1.20 GiB is free.\nOf the allocated memory 60.00 GiB is allocated by PyTorch."
)
ON_CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 4000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    ("error", "rule", "told"),
    [
        (
            ON_GPU,
            "cache_activations",
            "out of memory: 20.00 GiB were asked for and 1.20 GiB were free; lower "
            "activations.batch_sequences",
        ),
        (ON_CPU, "cache_activations", "out of memory: 4000 bytes were asked for; lower act"),
        (ON_GPU, "train_dictionary", "lower batch_tokens or d_dict of the dictionary"),
        (MemoryError("Unable to allocate 7.11 PiB for an array"), "map_reads", "7.11 PiB were"),
        (MemoryError(), "map_reads", "out of memory: no more was to be had"),
    ],
)
def test_a_lack_of_memory_is_one_line_with_numbers_and_a_key(error, rule, told):
    line = out_of_memory(error, rule)
    assert told in line
    assert "\n" not in line


def test_other_errors_are_no_lack_of_memory():
    assert out_of_memory(RuntimeError("mat1 and mat2 shapes"), "map_reads") is None


def test_inside_a_job_of_slurm_without_gpus_a_run_refuses_before_its_jobs_do():
    none, one = Gpus((), "7", why_none="SLURM granted none to its job 7"), Gpus((Gpu("0", ""),))
    told = "devices: features asks for a GPU, and SLURM granted none to its job 7; ask SLURM for "
    assert problem_of_grant(DevicesConfig(features="cuda"), none).startswith(told)
    assert problem_of_grant(DevicesConfig(), none) is None
    assert problem_of_grant(DevicesConfig(features="cuda"), one) is None
    assert problem_of_grant(DevicesConfig(features="cuda"), Gpus(())) is None
