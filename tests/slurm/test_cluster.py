"""The test cluster itself: it can be started again and again, and nothing of it stays."""

import subprocess
import sys
from pathlib import Path

import cluster
import host
import psutil
import pytest

DAEMONS = {"munged", "slurmctld", "slurmd", "slurmstepd", "slurmdbd", "mariadbd"}


def traces() -> dict[str, object]:
    """Return all that a cluster could leave: processes, files, open ports."""
    return {
        "daemons": {
            (process.pid, process.info["name"])
            for process in psutil.process_iter(["name", "status"])
            if process.info["name"] in DAEMONS and process.info["status"] != psutil.STATUS_ZOMBIE
        },
        "etc": sorted(host.ETC.glob("*.conf")),
        "hosts": host.HOSTS.read_text(),
        "folder": cluster.FOLDER.exists(),
        "ports": {
            socket.laddr.port
            for socket in psutil.net_connections("tcp")
            if socket.status == psutil.CONN_LISTEN and 13000 < socket.laddr.port < 17000
        },
    }


@pytest.mark.parametrize("accounting", [False, True])
def test_it_leaves_nothing_behind(accounting):
    cluster.down()
    before = traces()
    try:
        cluster.up(accounting=accounting)
        cluster.up(accounting=accounting)  # what runs, stays
        sleeping = ["sbatch", "--gpus=1", "--output=/dev/null", "--wrap", "srun sleep 300"]
        subprocess.run(sleeping, check=True, stdout=subprocess.DEVNULL)
        there = traces()
        assert {name for _, name in there["daemons"] - before["daemons"]} >= {"munged", "slurmd"}
        open_to_others = [
            socket.laddr
            for socket in psutil.net_connections("tcp")
            if socket.pid in {pid for pid, _ in there["daemons"]}
            and socket.status == psutil.CONN_LISTEN
            and not socket.laddr.ip.startswith("127.")
        ]
        assert not open_to_others
    finally:
        cluster.down()
        cluster.down()
    assert traces() == before


def test_a_stranger_with_an_old_process_id_is_left_alone(tmp_path):
    from daemons import stop

    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as stranger:
        file = tmp_path / "pid"
        file.write_text(str(stranger.pid))
        stop(file, "slurmd")
        assert stranger.poll() is None
        assert not file.exists()
        stranger.kill()


def test_a_slurm_of_the_machine_is_left_alone(tmp_path, monkeypatch):
    own = tmp_path / "etc" / "slurm.conf"
    own.parent.mkdir()
    own.write_text("ClusterName=theirs\n")
    monkeypatch.setattr(host, "ETC", own.parent)
    assert "has a SLURM of its own" in host.cannot_run(Path("/tmp/somewhere"))
    with pytest.raises(OSError, match="has a SLURM of its own"):
        cluster.up(tmp_path / "cluster")
    assert own.read_text() == "ClusterName=theirs\n"


def test_the_machines_own_name_is_made_local_and_given_back(tmp_path, monkeypatch):
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n172.17.0.2 box\n# no line end")
    monkeypatch.setattr(host, "HOSTS", hosts)
    monkeypatch.setattr(host.socket, "gethostname", lambda: "box")
    monkeypatch.setattr(host.socket, "gethostbyname", lambda _: "172.17.0.2")
    before = hosts.read_text()
    host.name_the_host()
    assert hosts.read_text().startswith("127.0.0.1 box ")
    host.forget_the_host()
    assert hosts.read_text() == before
