# ruff: noqa: E501
"""What is wrong with a machine, and the lines that its user is to see: the table, and how it is played.

`{here}` in a line stands for the folder of the case, `{n}` for a number of this machine.
"""

import asyncio
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from llm_server import Server
from wrong_inputs import of_model

from deepseemoe import preflight
from deepseemoe.config import LabelsConfig, ModelConfig, load_run
from deepseemoe.corpus.listing import list_files
from deepseemoe.dictionary.curves import mirror
from deepseemoe.labels.asking import retries
from deepseemoe.labels.asking.answers import Answers
from deepseemoe.labels.asking.bill import Bill
from deepseemoe.labels.asking.client import Client
from deepseemoe.model import placement
from deepseemoe.model.loading import load_model
from deepseemoe.runtime import gpus, lease
from deepseemoe.runtime.pins import encoded
from deepseemoe.runtime.stage import devices, run_stage

KEY = "DEEPSEEMOE_TEST_KEY"
GIB = 2**30
ON_GPU = {"devices": {"activations": "cuda:0", "dictionary": "cuda:1"}}


class Box:
    """The machine of a case: what is wrong with it is set here, and what it says comes back."""

    def __init__(self, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
        self.here, self.monkeypatch, self._capsys = here, monkeypatch, capsys

    def check(self, **config: Any) -> list[str]:
        """Return what is told before any job."""
        return preflight.problems(load_run(config))

    def job(self, main: Callable[[Any], Any], *, rule: str, **resources: int) -> list[str]:
        """Return what a job shows on screen where it fails, its log being whole."""
        log = self.here / "job.log"
        job = SimpleNamespace(log=[str(log)], rule=rule, threads=1, output=[], resources=resources)
        with pytest.raises(SystemExit):
            run_stage(main, job)
        assert "Traceback" in log.read_text(encoding="utf-8"), "for whoever mends it"
        shown = self._capsys.readouterr().err.splitlines()
        return [line.rpartition(" ERROR deepseemoe.runtime.stage: ")[2] for line in shown]

    def has_gpu_files(self) -> None:
        """Show files of two GPUs, and a driver that is broken."""
        for number in range(2):
            (self.here / f"nvidia{number}").touch()
        seen = partial(gpus.gpus_here, devices=self.here)
        self.monkeypatch.setattr(gpus, "_listed", list)
        self.monkeypatch.setattr(preflight, "gpus_here", seen)
        self.monkeypatch.setattr(lease, "gpus_here", seen)
        self.monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        self.monkeypatch.setattr(torch.version, "cuda", "13.0")

    def ask(self, url: str) -> list[str]:
        """Return what a job says that opens a server of a language model."""

        async def opened() -> None:
            config = LabelsConfig(labeller="openai", base_url=url, api_key_env=KEY, model="m")
            with Answers(self.here / "answers", "features") as answers:
                async with Client(config, answers, bill=Bill()):
                    pytest.fail("it was let in")

        self.monkeypatch.setattr(retries, "FIRST", 0.001)
        return self.job(lambda job: asyncio.run(opened()), rule="label_features")


def no_gpu(box: Box) -> list[str]:
    box.monkeypatch.setattr(gpus, "_there", lambda devices: [])
    return box.check(devices={**ON_GPU["devices"], "require_gpu": True})


def no_gpu_shown(box: Box) -> list[str]:
    box.has_gpu_files()
    box.monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return box.check(devices={**ON_GPU["devices"], "require_gpu": True})


def driver_broken(box: Box) -> list[str]:
    box.has_gpu_files()
    return box.check(**ON_GPU)


def driver_broken_in_a_job(box: Box) -> list[str]:
    box.has_gpu_files()
    return box.job(devices, rule="cache_activations", pins=encoded([[0]]))


def torch_without_cuda(box: Box) -> list[str]:
    box.has_gpu_files()
    box.monkeypatch.setattr(torch.version, "cuda", None)
    box.monkeypatch.setattr(torch, "__version__", "2.0+cpu")
    return box.job(devices, rule="cache_activations", pins=encoded([[0]]))


def slurm_granted_none(box: Box) -> list[str]:
    box.monkeypatch.setenv("SLURM_JOB_ID", "77")
    box.monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return box.job(devices, rule="train_dictionary", pins=encoded([[0]]))


def fake_gpus_in_words(box: Box) -> list[str]:
    box.monkeypatch.setenv("DEEPSEEMOE_FAKE_GPUS", "two")
    return box.job(devices, rule="train_dictionary", pins=encoded([[0]]))


def model_too_large(box: Box) -> list[str]:
    for name, content in of_model().items():
        (box.here / name).parent.mkdir(exist_ok=True)
        (box.here / name).write_bytes(content)
    box.monkeypatch.setattr(placement, "free_bytes", lambda device: 1000)
    config = ModelConfig(source="hub", name="./m")
    return box.job(lambda job: load_model(config, None), rule="cache_activations")


def dictionary_too_large_for_a_gpu(box: Box) -> list[str]:
    said = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.20 GiB is free.\nOf the allocated memory 60.00 GiB is allocated by PyTorch."

    def fail(job: Any) -> None:
        raise torch.OutOfMemoryError(said)

    return box.job(fail, rule="train_dictionary")


def array_too_large(box: Box) -> list[str]:
    return box.job(lambda job: np.empty(2**58), rule="encode_features")


def wandb_missing(box: Box) -> list[str]:
    box.monkeypatch.setitem(sys.modules, "wandb", None)
    return box.check(dictionaries={"a": {"wandb_project": "p"}})


def wandb_missing_on_a_node(box: Box) -> list[str]:
    box.monkeypatch.setitem(sys.modules, "wandb", None)
    return box.job(lambda job: mirror("p", "a", {}).__enter__(), rule="train_dictionary")


def s3fs_missing(box: Box) -> list[str]:
    box.monkeypatch.setitem(sys.modules, "s3fs", None)
    return box.check(corpus={"source": "files", "paths": ["s3://bucket/a.jsonl"]})


def model_offline(box: Box) -> list[str]:
    box.monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return box.check(model={"source": "hub", "name": "somebody/some-moe"})


def _no_network(box: Box) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    box.monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    box.monkeypatch.setattr(socket, "getaddrinfo", refuse)
    box.monkeypatch.setattr(time, "sleep", lambda seconds: None)


def model_without_network(box: Box) -> list[str]:
    _no_network(box)
    return box.check(model={"source": "hub", "name": "somebody/some-moe"})


def data_set_offline(box: Box) -> list[str]:
    box.monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return _data_set(box)


def data_set_without_network(box: Box) -> list[str]:
    _no_network(box)
    return _data_set(box)


def _data_set(box: Box) -> list[str]:
    name = f"somebody/texts-{time.monotonic_ns()}"  # fsspec remembers what it was told of others
    config = load_run({"corpus": {"source": "hub", "dataset": name}}).corpus
    told = box.job(lambda job: list_files(config), rule="pack_corpus")
    return [line.replace(name, "somebody/texts") for line in told]


def no_key(box: Box) -> list[str]:
    box.monkeypatch.delenv(KEY)
    return box.check(labels={"labeller": "openai", "api_key_env": KEY})


def wrong_key(box: Box) -> list[str]:
    with Server(lambda prompt: "Hello!", key="another") as server:
        told = box.ask(server.url)
    assert server.n_begun == 1, "no storm of requests that will fare no better"
    return [line.replace(server.url, "http://127.0.0.1/v1") for line in told]


def server_gone(box: Box) -> list[str]:
    with socket.socket() as taken:  # and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        told = box.ask(url)
    return [line.replace(url, "http://127.0.0.1/v1") for line in told]


def disk_too_small(box: Box) -> list[str]:
    usage = SimpleNamespace(total=GIB, used=GIB // 2, free=GIB // 2)
    box.monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    return box.check()


def results_closed(box: Box) -> list[str]:
    folder = box.here / "closed"
    folder.mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may write all
        allowed = os.access
        box.monkeypatch.setattr(
            preflight.os, "access", lambda path, mode: path != folder and allowed(path, mode)
        )
    return box.check(pathvars={"results": str(folder / "of_mine")})


def results_in_a_file(box: Box) -> list[str]:
    (box.here / "results").write_text("a file")
    return box.check()


def no_place_for_locks(box: Box) -> list[str]:
    box.has_gpu_files()
    (box.here / "file").touch()
    box.monkeypatch.setenv("DEEPSEEMOE_LOCKS", str(box.here / "file"))
    return box.job(devices, rule="cache_activations", pins=encoded([[0]]))


class Wrong(NamedTuple):
    """A wrong environment, and what is told of it."""

    played: Callable[[Box], list[str]]
    lines: tuple[str, ...]


CASES = (
    Wrong(no_gpu, ("devices: activations, dictionary ask for a GPU, this machine has none, and devices.require_gpu is true; run where there is one, or write cpu",)),
    Wrong(no_gpu_shown, ("devices: activations, dictionary ask for a GPU, CUDA_VISIBLE_DEVICES is '', and devices.require_gpu is true; run where there is one, or write cpu",)),
    Wrong(driver_broken, ("devices: this machine has 2 GPUs, and torch sees no GPU; see whether nvidia-smi works and torch is built for CUDA",)),
    Wrong(driver_broken_in_a_job, ("rule cache_activations: devices: cuda:0 asked for, and torch sees no GPU (CUDA_VISIBLE_DEVICES is '0'); see whether `nvidia-smi` works, or write cpu at `devices`",)),
    Wrong(torch_without_cuda, ("rule cache_activations: devices: cuda:0 asked for, and torch sees no GPU (CUDA_VISIBLE_DEVICES is '0'); torch 2.0+cpu is built without CUDA: install one that is, or write cpu at `devices`",)),
    Wrong(slurm_granted_none, ("rule train_dictionary: devices: a GPU is asked for, and SLURM granted none to its job 77 (CUDA_VISIBLE_DEVICES is ''); let the profile ask for GPUs, or write cpu at `devices`",)),
    Wrong(fake_gpus_in_words, ("rule train_dictionary: DEEPSEEMOE_FAKE_GPUS: 'two' is no number of GPUs; write 0 to 99",)),
    Wrong(model_too_large, ("rule cache_activations: m: its weights need 0.0 GiB on cpu, where 0.0 GiB are free; read lower layers (windows, with activations.routing: needed), or halve it with model.dtype: bfloat16",)),
    Wrong(dictionary_too_large_for_a_gpu, ("rule train_dictionary: out of memory: 20.00 GiB were asked for and 1.20 GiB were free; lower batch_tokens or d_dict of the dictionary, or spread it over more GPUs (as devices.dictionary: 2)",)),
    Wrong(array_too_large, ("rule encode_features: out of memory: 2.00 EiB were asked for; lower corpus.n_tokens or d_dict, or run it where there is more memory",)),
    Wrong(wandb_missing, ("dictionaries: wandb_project is set, but wandb is not installed; pip install wandb",)),
    Wrong(wandb_missing_on_a_node, ("rule train_dictionary: wandb_project is 'p', but wandb is not installed; run `pip install wandb` or leave wandb_project empty",)),
    Wrong(s3fs_missing, ("corpus.paths: s3://bucket/a.jsonl cannot be read here: Install s3fs to access S3",)),
    Wrong(model_offline, ("model.name: somebody/some-moe: it is not all on this machine, and HF_HUB_OFFLINE is set; where there is a network, run `hf download somebody/some-moe`, or name the folder that holds it",)),
    Wrong(model_without_network, ("model.name: somebody/some-moe: it is not all on this machine, and the Hub cannot be reached; where there is a network, run `hf download somebody/some-moe`, or name the folder that holds it",)),
    Wrong(data_set_offline, ("rule pack_corpus: hf://datasets/somebody/texts cannot be listed (Cannot reach https://huggingface.co/api/datasets/somebody/texts: offline mode is enabled. To disable it, please unset the `HF_HUB_OFFLINE` environment variable.); it needs a network and, where it is gated, a login. Or download it and write source: files",)),
    Wrong(data_set_without_network, ("rule pack_corpus: hf://datasets/somebody/texts cannot be listed ([Errno -3] Temporary failure in name resolution); it needs a network and, where it is gated, a login. Or download it and write source: files",)),
    Wrong(no_key, ("labels.api_key_env: the environment variable DEEPSEEMOE_TEST_KEY is not set; export the key of your server, or any word where it asks for none",)),
    Wrong(wrong_key, ("rule label_features: http://127.0.0.1/v1, model m: 401: Incorrect API key provided: ⟨key⟩; check the key in DEEPSEEMOE_TEST_KEY",)),
    Wrong(server_gone, ("rule label_features: http://127.0.0.1/v1, model m: no answer: no connection (All connection attempts failed); start the server or check labels.base_url",)),
    Wrong(disk_too_small, ("pathvars.results: {here} has {n} GiB free, and the run writes {n} GiB more; see `deepseemoe plan` for what takes less",)),
    Wrong(results_closed, ("pathvars.results: {here}/closed cannot be written; name another, or free it",)),
    Wrong(results_in_a_file, ("pathvars.results: {here}/results is no folder; name another",)),
    Wrong(no_place_for_locks, ("rule cache_activations: {here}/file: no folder, or a link, where jobs lock GPUs; remove it, or name another folder in the environment variable DEEPSEEMOE_LOCKS",)),
)  # fmt: skip


def matches(told: str, line: str, here: Path) -> bool:
    """Return whether a line was told, whatever its numbers of this machine are."""
    parts = (re.escape(part) for part in line.replace("{here}", str(here)).split("{n}"))
    return re.fullmatch(r"[\d.]+".join(parts), told) is not None
