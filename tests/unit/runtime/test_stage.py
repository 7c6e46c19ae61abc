"""A stage logs to its file, and tells an error of the user's in one line."""

import logging
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deepseemoe.runtime import lease
from deepseemoe.runtime.gpus import Gpu, Gpus
from deepseemoe.runtime.pins import encoded
from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.seeds import generator, seed_for
from deepseemoe.runtime.stage import device, devices, ranks, run_stage, shared


@pytest.fixture
def job(tmp_path, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    log = [str(tmp_path / "log")]
    yield SimpleNamespace(log=log, rule="pack_corpus", threads=1, resources={}, output=[])
    for handler in logging.getLogger().handlers[:]:
        if isinstance(handler, logging.FileHandler):
            handler.close()
            logging.getLogger().removeHandler(handler)


def test_a_wrong_value_ends_as_one_line_and_keeps_its_traceback_in_the_log(job, tmp_path, capsys):
    def fail(_):
        raise ValueError("shard 3: 5 tokens, expected 8")

    with pytest.raises(SystemExit) as exited:
        run_stage(fail, job)
    assert exited.value.code == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert told[0].endswith("rule pack_corpus: shard 3: 5 tokens, expected 8")
    assert "Traceback" in (tmp_path / "log").read_text()


def test_ctrl_c_is_one_line_and_no_traceback(job, tmp_path, capsys):
    def stopped(_):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exited:
        run_stage(stopped, job)
    assert exited.value.code == 130
    (told,) = capsys.readouterr().err.strip().splitlines()
    assert told.endswith("rule pack_corpus: interrupted; run again, what was finished is kept")
    assert "Traceback" in (tmp_path / "log").read_text()


def test_a_defect_of_ours_shows_its_traceback(job, capsys):
    def fail(_):
        raise KeyError("oops")

    with pytest.raises(SystemExit):
        run_stage(fail, job)
    assert "Traceback" in capsys.readouterr().err


def test_a_lack_of_memory_is_one_line_for_every_rule(job, tmp_path, capsys):
    def fail(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(SystemExit):
        run_stage(fail, job)
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert "rule pack_corpus: out of memory: 2.00 GiB were asked for; lower" in told[0]
    assert "Traceback" in (tmp_path / "log").read_text()


def seen_by(job):
    """Run a job, and return what it is told of its devices."""
    seen = []

    def look(job):
        seen.append((device(job), devices(job), ranks(job)))

    run_stage(look, job)
    return seen[0]


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    """Two GPUs on this machine, of which torch sees what CUDA_VISIBLE_DEVICES shows."""
    monkeypatch.setenv("DEEPSEEMOE_LOCKS", str(tmp_path / "locks"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(lease, "gpus_here", lambda: Gpus((Gpu("0", "a"), Gpu("1", "b"))))
    shown = lambda: len([*filter(None, os.environ["CUDA_VISIBLE_DEVICES"].split(","))])  # noqa: E731
    monkeypatch.setattr(torch.cuda, "device_count", shown)


def test_a_job_computes_on_what_it_leased(job, two_gpus):
    job.params = SimpleNamespace(processes=3)
    assert seen_by(job) == ("cpu", ("cpu",), ("cpu",) * 3)
    job.resources["pins"] = encoded([[1]])
    assert seen_by(job) == ("cuda:0", ("cuda:0",), ("cuda:0",))
    job.resources["pins"] = encoded([[1, 0]])
    assert seen_by(job)[1:] == (("cuda:0", "cuda:1"),) * 2
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    ("model", "own", "devices"),
    [
        ([1], [0], (("cuda:0",), "cuda:1")),
        ([0, 1], [1], (("cuda:0", "cuda:1"), "cuda:1")),
        ([0], [2], (("cuda:0",), "cuda:0")),
        ([None, None], [None], (("cuda:0", "cuda:1"), "cuda:1")),
        ([], [1], (("cpu",), "cuda:0")),
        ([1], [], (("cuda:0",), "cpu")),
    ],
)
def test_a_model_and_its_dictionaries_are_where_they_are_pinned(model, own, devices, job, two_gpus):
    job.resources["pins"] = encoded([model, own])
    found = []
    on_gpu = {"model_on_gpu": bool(model), "own_on_gpu": bool(own)}
    run_stage(lambda job: found.append(shared(job, **on_gpu)), job)
    assert found == [devices]


def test_a_gpu_that_torch_does_not_see_ends_the_job_in_one_line(job, two_gpus, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    job.resources["pins"] = encoded([[0]])
    with pytest.raises(SystemExit):
        run_stage(devices, job)
    (told,) = capsys.readouterr().err.strip().splitlines()
    assert "cuda:0 asked for, and torch sees no GPU (CUDA_VISIBLE_DEVICES is '0'); " in told
    assert ("is built without CUDA" if torch.version.cuda is None else "nvidia-smi") in told


def test_seeds_differ_by_purpose_and_stay_the_same():
    assert seed_for(0, "permute", 1) == seed_for(0, "permute", 1)
    assert len({seed_for(0, "a"), seed_for(1, "a"), seed_for(0, "b"), seed_for(0, "a", 1)}) == 4
    assert np.array_equal(generator(5, "x").random(3), generator(5, "x").random(3))


def test_progress_tells_counts_rate_and_values(caplog):
    with caplog.at_level(logging.INFO):
        progress = Progress("training", 100)
        progress.advance(40)
        progress.advance(60, loss=2.5)
    assert len(caplog.records) == 1
    assert "training: 100 of 100 tokens" in caplog.text
    assert "loss 2.5" in caplog.text
