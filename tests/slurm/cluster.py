"""A real SLURM on this machine, for tests: `python tests/slurm/cluster.py up --accounting`; `down`.

As root, on Debian or Ubuntu; missing packages are installed. Up twice is up, down twice is down,
and `down` leaves nothing but the packages. Only one at a time: SLURM reads /etc/slurm.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import daemons
import host
from daemons import says, wait_for
from slurm_files import DATABASE_PORT, NODES, write_files

FOLDER = Path("/tmp/deepseemoe-slurm")


def up(folder: Path = FOLDER, *, accounting: bool = False) -> None:
    """Start the cluster, or what of it does not run; raise OSError in one line where it cannot."""
    if reason := host.cannot_run(folder):
        raise OSError(f"slurm: {reason}")
    host.install((*host.PACKAGES, *(host.ACCOUNTING_PACKAGES if accounting else ())))
    if folder.exists() and has_accounting(folder) != accounting:
        down(folder)
    folder.mkdir(mode=0o755, exist_ok=True)
    host.name_the_host()
    host.link(write_files(folder, accounting=accounting))
    _start_munge(folder / "munge")
    if accounting:
        _start_accounting(folder)
    daemons.start(folder / "run/slurmctld.pid", "/usr/sbin/slurmctld", "-i")
    wait_for("slurmctld", lambda: says("scontrol", "ping") is not None)
    if accounting:
        host_column = ("sacctmgr", "-nP", "show", "cluster", "test", "format=controlhost")
        wait_for("slurmctld in slurmdbd", lambda: bool((says(*host_column) or "").strip()))
    for node in NODES:
        start_node(node, folder)
    wait_for("idle nodes", lambda: all(map(is_up, NODES)), 60)


def down(folder: Path = FOLDER) -> None:
    """End the cluster and take away all that it left."""
    _cancel_jobs(folder)
    for node in NODES:
        daemons.stop(folder / f"run/slurmd.{node}.pid", "slurmd")
    daemons.kill_jobs(folder / "spool")
    daemons.stop(folder / "run/slurmctld.pid", "slurmctld")
    daemons.stop(folder / "run/slurmdbd.pid", "slurmdbd")
    daemons.stop(folder / "database/pid", "mariadbd")
    daemons.stop(folder / "munge/pid", "munged")
    host.unlink(folder)
    host.forget_the_host()
    shutil.rmtree(folder, ignore_errors=True)


def start_node(node: str, folder: Path = FOLDER) -> None:
    """Start a node, or start it again."""
    daemons.start(folder / f"run/slurmd.{node}.pid", "/usr/sbin/slurmd", "-N", node)
    says("scontrol", "update", f"NodeName={node}", "State=RESUME")


def kill_node(node: str, folder: Path = FOLDER) -> None:
    """Let a node die with all of its jobs, at once."""
    if process := daemons.running(folder / f"run/slurmd.{node}.pid", "slurmd"):
        process.kill()
    daemons.kill_jobs(folder / "spool" / node)


def is_up(node: str) -> bool:
    """Return whether a node takes jobs."""
    state = (says("sinfo", "-hN", "-n", node, "-o", "%T") or "").split()
    return bool(state) and state[0] in {"idle", "mixed", "allocated"}


def has_accounting(folder: Path = FOLDER) -> bool:
    """Return whether the cluster of this folder was started with accounting."""
    return (folder / "slurmdbd.conf").exists()


def _start_munge(folder: Path) -> None:
    """Start a munge of our own: key and socket are not the machine's."""
    folder.mkdir(mode=0o755, exist_ok=True)
    key = folder / "key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
    names = ("socket", "pid", "log", "seed")
    options = ("--socket", "--pid-file", "--log-file", "--seed-file")
    places = (f"{option}={folder / name}" for option, name in zip(options, names, strict=True))
    daemons.start(folder / "pid", "/usr/sbin/munged", f"--key-file={key}", *places)
    wait_for("munge", lambda: says("munge", "-n", f"--socket={folder / 'socket'}") is not None)


def _start_accounting(folder: Path) -> None:
    database = folder / "database"
    _start_database(database)
    sql = (
        "create database if not exists slurm_acct_db; "
        "create user if not exists 'slurm'@'127.0.0.1' identified by 'slurm'; "
        "create user if not exists 'slurm'@'localhost' identified by 'slurm'; "
        "grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1'; "
        "grant all on slurm_acct_db.* to 'slurm'@'localhost';"
    )
    wait_for("users of mariadb", lambda: _asked(database, sql) is not None)
    daemons.start(folder / "run/slurmdbd.pid", "/usr/sbin/slurmdbd")
    show = ("sacctmgr", "-nP", "show", "cluster", "format=cluster")
    wait_for("slurmdbd", lambda: says(*show) is not None)
    if "test" not in (says(*show) or "").split():
        says("sacctmgr", "-i", "add", "cluster", "test")


def _start_database(folder: Path) -> None:
    folder.mkdir(mode=0o755, exist_ok=True)
    if not (folder / "data/mysql").exists():
        made = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={folder}/data"]
        made += ["--auth-root-authentication-method=socket", "--skip-test-db"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if daemons.running(folder / "pid", "mariadbd"):
        return
    options = f"""--no-defaults --user=root --datadir={folder}/data --socket={folder}/socket
        --pid-file={folder}/pid --log-error={folder}/log --bind-address=127.0.0.1
        --port={DATABASE_PORT} --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900
        --innodb-flush-log-at-trx-commit=0""".split()
    # It stays in the foreground, and setsid goes back to us.
    subprocess.run(
        ["setsid", "--fork", "/usr/sbin/mariadbd", *options],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for("mariadb", lambda: _asked(folder, "select 1") is not None)


def _asked(folder: Path, sql: str) -> str | None:
    return says("mariadb", "--no-defaults", "-uroot", "-S", folder / "socket", "-e", sql)


def _cancel_jobs(folder: Path) -> None:
    """Cancel what runs, so that jobs end as they do on a cluster."""
    if not daemons.running(folder / "run/slurmctld.pid", "slurmctld"):
        return
    jobs = (says("squeue", "-h", "-o", "%A") or "").split()
    if jobs:
        says("scancel", *jobs)
        try:
            wait_for("the end of jobs", lambda: not (says("squeue", "-h") or "").strip(), 10)
        except OSError:
            return  # a node that died; its jobs are killed below


def main() -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("up", "down"))
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd and mariadb")
    wanted = parser.parse_args()
    try:
        up(accounting=wanted.accounting) if wanted.action == "up" else down()
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
