"""No two jobs hold a GPU, whoever started them and however they end."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest

from deepseemoe.runtime import lease, locks
from deepseemoe.runtime.lease import Lease, leased
from deepseemoe.runtime.locks import lock_folder, locked
from deepseemoe.runtime.pins import decoded, encoded

ANY = None
JOBS = Path(__file__).with_name("lease_jobs.py")


@pytest.fixture
def opened(monkeypatch):
    """Pretend that this process has opened a GPU; what it held is let go after the test."""
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    before = list(lease._HELD)
    yield
    for descriptor in set(lease._HELD) - set(before):
        lease._HELD.remove(descriptor)
        os.close(descriptor)


@pytest.fixture(autouse=True)
def two_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPSEEMOE_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv("DEEPSEEMOE_FAKE_GPUS", "2")
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


def job(*stages):
    return SimpleNamespace(resources={"pins": encoded(stages)}, rule="train_dictionary")


def started(*tasks, **changes):
    call = [sys.executable, str(JOBS), json.dumps(tasks)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(call, **pipes, **changes)


def holder(**task):
    """Start a job that holds GPU 0 for a minute, and return it once it does."""
    process = started({"pins": [[0]], "seconds": 60, **task})
    assert json.loads(process.stdout.readline())[:2] == [["0"], "0"]
    return process


def test_a_process_that_opened_a_gpu_holds_it_to_its_end(opened):
    with leased(job((0,))):
        assert not is_free()
    assert not is_free()  # its memory is not free either
    with leased(job((1,))):
        pass
    assert not is_free("fake-1.lock")


def is_free(name="fake-0.lock"):
    with lock_folder() as folder:
        descriptor = locked(folder, name)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None


def eventually(question, seconds=30):
    end = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < end
        time.sleep(0.02)


def ended(process):
    process.kill()
    process.communicate()


def intervals(processes):
    """Return who held which GPU from when to when, of all processes when they are done."""
    found = []
    for process in processes:
        lines = iter(process.communicate(timeout=120)[0].splitlines())
        assert process.returncode == 0
        for first, last in zip(lines, lines, strict=True):
            ids, shown, began = json.loads(first)
            assert ",".join(ids) == shown
            found += [(gpu, began, json.loads(last)) for gpu in ids]
    return found


def n_clashes(found):
    pairs = combinations(found, 2)
    return sum(a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for a, b in pairs)


MIXED = [[[ANY]], [[0]], [[1], [0]], [[0, 1]], [[1]], [[ANY, ANY]]]


def test_many_jobs_at_once_share_no_gpu_and_none_is_stuck():
    orders = [MIXED[turn:] + MIXED[:turn] for turn in range(len(MIXED))]
    found = intervals([started(*({"pins": pins} for pins in order)) for order in orders])
    assert len(found) == len(orders) * (3 + 2 * 3)
    assert n_clashes(found) == 0


def test_without_common_locks_they_would_clash(tmp_path):
    """The test above can fail: each of these jobs has locks of its own."""
    environments = [os.environ | {"DEEPSEEMOE_LOCKS": str(tmp_path / str(n))} for n in range(2)]
    long = {"pins": [[0]], "seconds": 2}
    assert n_clashes(intervals([started(long, env=env) for env in environments])) == 1


def test_an_exception_frees_the_gpu():
    def fail():
        with leased(job([0])):
            assert not is_free()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert is_free()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_kill_9_frees_the_gpu_and_who_waits_was_told_once_who_has_it():
    first = holder()
    second = started({"pins": [[0]]})
    told = second.stderr.readline()
    assert told.startswith(f"waiting for GPU 0, held by process {first.pid} (rule train_dicti")
    assert " since 20" in told
    time.sleep(0.5)
    assert second.poll() is None
    ended(first)
    out, err = second.communicate(timeout=30)
    assert json.loads(out.splitlines()[0])[0] == ["0"]
    assert [line.split()[0] for line in err.splitlines()] == ["waited"]


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_a_gpu_is_held_until_the_last_process_of_the_job_is_dead(how, tmp_path):
    pid_file = tmp_path / "pid"
    first = holder(child=how, pid_file=str(pid_file))
    eventually(lambda: pid_file.exists() and pid_file.read_text())
    first.kill()  # its pipes stay open in the child that it forked
    first.wait()
    assert not is_free()
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    eventually(is_free)
    first.communicate()


@pytest.mark.parametrize(
    ("n_gpus", "stages", "ids", "devices"),
    [
        (2, [[0], [1]], "0,1", [["cuda:0"], ["cuda:1"]]),
        (2, [[1], [0]], "1,0", [["cuda:0"], ["cuda:1"]]),
        (2, [[1, 0]], "1,0", [["cuda:0", "cuda:1"]]),
        (2, [[0, 1], [1]], "0,1", [["cuda:0", "cuda:1"], ["cuda:1"]]),
        (2, [[1], [0, 1]], "1,0", [["cuda:0"], ["cuda:1", "cuda:0"]]),
        (2, [[ANY], [0]], "1,0", [["cuda:0"], ["cuda:1"]]),
        (2, [[ANY, ANY], [ANY]], "0,1", [["cuda:0", "cuda:1"], ["cuda:1"]]),
        (2, [[5], [2]], "1,0", [["cuda:0"], ["cuda:1"]]),
        (1, [[0], [1]], "0", [["cuda:0"], ["cuda:0"]]),
        (1, [[1, 0]], "0", [["cuda:0"]]),
        (1, [[ANY, ANY, ANY]], "0", [["cuda:0"]]),
        (4, [[3], [1]], "3,1", [["cuda:0"], ["cuda:1"]]),
        (4, [[ANY, ANY], [0]], "1,2,0", [["cuda:0", "cuda:1"], ["cuda:2"]]),
        (4, [[7, 6]], "3,2", [["cuda:0", "cuda:1"]]),
    ],
)
def test_a_job_sees_its_gpus_alone_in_the_order_of_its_pins(
    n_gpus, stages, ids, devices, monkeypatch
):
    monkeypatch.setenv("DEEPSEEMOE_FAKE_GPUS", str(n_gpus))
    with leased(job(*stages)) as lease:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ids
        assert [list(part) for part in lease.stages] == devices
        assert lease._replace(are_fake=False).of_stage(0) == tuple(devices[0])
        assert lease.devices == lease.of_stage(0) == ("cpu",)  # they are pretended


@pytest.mark.parametrize("stages", MIXED)
def test_pins_travel_as_one_number(stages):
    assert [list(part) for part in decoded(encoded(stages))] == stages


def test_without_a_gpu_a_job_computes_on_the_cpu(monkeypatch):
    monkeypatch.setenv("DEEPSEEMOE_FAKE_GPUS", "0")
    with leased(job([0], [1])) as lease:
        assert (lease, lease.devices) == (Lease(), ("cpu",))
        assert (lease.of_stage(0), lease.of_stage(1)) == (("cpu",), ("cpu",))


def test_a_job_that_asks_for_no_gpu_sees_none():
    with leased(job()):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_rule_that_only_counts_gets_any():
    counted = SimpleNamespace(resources={"gpu": 1}, rule="other")
    first = holder()
    with leased(counted) as lease:
        assert lease.ids == ("1",)
    ended(first)


def test_gpus_that_the_shell_hides_are_not_taken(monkeypatch):
    monkeypatch.setenv("DEEPSEEMOE_FAKE_GPUS", "4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    with leased(job([0])) as lease:
        assert (lease.ids, is_free("fake-3.lock")) == (("3",), False)
    with leased(job([1])) as lease:
        assert (lease.ids, is_free("fake-3.lock")) == (("1",), True)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,1"


def test_slurm_decides_which_gpus_there_are(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    with leased(job([1])) as lease:
        assert lease.ids == ("5",)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,2")
        with leased(job([ANY])) as other:  # another member of a group job
            assert other.ids == ("2",)
        monkeypatch.setenv("SLURM_JOB_ID", "8")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")  # another job's, as in its own cgroup
        with leased(job([3])) as elsewhere:
            assert elsewhere.ids == ("5",)
    assert list((tmp_path / "locks").iterdir()) == []  # nobody takes these again


@pytest.mark.parametrize("shown", [None, "", "NoDevFiles"])
def test_a_job_of_slurm_without_a_gpu_refuses(shown, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    with pytest.raises(ValueError, match="SLURM granted none to its job 7 .*; let the profile ask"):
        leased(job([0])).__enter__()
    with leased(job()):
        pass


def test_a_note_shows_nothing_but_what_it_should(tmp_path):
    first = holder()
    (tmp_path / "locks/fake-0.lock").write_text(
        json.dumps({"pid": "1\x1b[2J", "rule": "x\x1b[2J", "since": "then"})
    )
    second = started({"pins": [[0]]})
    assert second.stderr.readline() == "waiting for GPU 0, held by another process\n"
    ended(second)
    ended(first)


def test_a_folder_of_locks_is_no_link_and_no_open_door(tmp_path, monkeypatch):
    folder = tmp_path / "locks"
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"locks: no folder, or a link.*DEEPSEEMOE_LOCKS"):
        leased(job([0])).__enter__()
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(OSError, match="every user may replace every file"):
        leased(job([0])).__enter__()
    folder.chmod(0o755)
    (folder / "fake-0.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match=r"fake-0.lock: the lock of a GPU cannot be opened"):
        leased(job([0])).__enter__()
    assert not (tmp_path / "victim").exists()
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
        with pytest.raises(OSError, match="a folder of user 65534 alone"):
            leased(job([0])).__enter__()


def test_where_tmp_cannot_be_written_another_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.delenv("DEEPSEEMOE_LOCKS")
    monkeypatch.setattr(locks, "FOLDERS", (str(tmp_path / "missing"), str(tmp_path)))
    with leased(job([0])):
        (folder,) = tmp_path.glob("deepseemoe-*")
        assert folder.stat().st_mode & 0o7777 == 0o1777
        assert (folder / "fake-0.lock").stat().st_mode & 0o777 == 0o666
    monkeypatch.setattr(locks, "FOLDERS", (str(tmp_path / "missing"), "/proc"))
    with pytest.raises(OSError, match=r"none of .*missing, /proc can be written.*DEEPSEEMOE_LOCKS"):
        leased(job([0])).__enter__()


def test_a_lock_that_was_removed_meanwhile_is_made_again(tmp_path):
    with leased(job([0])):
        pass
    with lock_folder() as folder:
        old = os.open(folder.path / "fake-0.lock", os.O_RDWR)
        os.unlink(folder.path / "fake-0.lock")
        new = locked(folder, "fake-0.lock")
        assert os.fstat(new).st_ino == os.stat(folder.path / "fake-0.lock").st_ino
        os.close(new)
        os.close(old)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_two_users_share_the_locks_of_a_machine(monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:
        os.chmod(parent, 0o1777)
        monkeypatch.setenv("DEEPSEEMOE_LOCKS", f"{parent}/locks")
        code = (
            "import os, sys; from deepseemoe.runtime.locks import *;"
            "os.umask(0o077); os.setgid(65534); os.setuid(65534);"
            "opened = lock_folder(); folder = opened.__enter__();"
            "print(locked(folder, 'fake-0.lock') is not None, flush=True); sys.stdin.read()"
        )
        call = [sys.executable, "-c", code]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        theirs = subprocess.Popen(call, **pipes)
        assert theirs.stdout.readline() == "True\n"
        assert not is_free()
        theirs.communicate("")
        with leased(job([0])):  # on their file
            again = subprocess.Popen(call, **pipes)
            assert again.communicate("")[0] == "False\n"
