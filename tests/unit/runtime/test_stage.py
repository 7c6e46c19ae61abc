"""A stage logs to its file, and tells an error of the user's in one line."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from deepseemoe.runtime.progress import Progress
from deepseemoe.runtime.seeds import generator, seed_for
from deepseemoe.runtime.stage import device, devices, run_stage


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


def test_a_job_computes_where_the_scheduler_put_it(job, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (device(job), devices(job)) == ("cpu", ("cpu",))
    job.resources["gpu"] = 1
    assert (device(job), devices(job)) == ("cuda:0", ("cuda:0",))
    job.resources["gpu"] = 2
    assert devices(job) == ("cuda:0", "cuda:1")
    job.resources["gpu"] = 3
    with pytest.raises(ValueError, match="cuda:2 asked for, and torch sees 2 GPUs"):
        devices(job)


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
