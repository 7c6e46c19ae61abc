"""Starting and ending daemons: by process id, and only where the process is still what it was."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil


def running(pid_file: Path, name: str) -> psutil.Process | None:
    """Return the process of a pid file, where it lives and has this name."""
    with suppress(OSError, ValueError, psutil.Error):
        process = psutil.Process(int(pid_file.read_text()))
        if process.name() == name and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def start(pid_file: Path, *command: str | Path) -> None:
    """Start a daemon that puts itself into the background, unless it runs; raise OSError."""
    if running(pid_file, Path(command[0]).name):
        return
    done = subprocess.run(
        [*map(str, command)], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.returncode}")


def stop(pid_file: Path, name: str, seconds: float = 20.0) -> None:
    """End a daemon, by force where it does not end by itself."""
    if process := running(pid_file, name):
        process.terminate()
        end(process, seconds)
    pid_file.unlink(missing_ok=True)


def end(process: psutil.Process, seconds: float) -> None:
    """Wait for a process to end, and kill it where it does not; a zombie has ended."""
    until = time.monotonic() + seconds
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > until:
                process.kill()
            time.sleep(0.05)


def wait_for(what: str, is_there: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return once `is_there`; raise OSError after `seconds`."""
    until = time.monotonic() + seconds
    while not is_there():
        if time.monotonic() > until:
            raise OSError(f"{what}: not there after {seconds:.0f} s")
        time.sleep(0.1)


def says(*command: str | Path) -> str | None:
    """Return what a command prints; None where it fails or does not answer."""
    with suppress(subprocess.TimeoutExpired, FileNotFoundError):
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=5)
        return done.stdout if done.returncode == 0 else None
    return None


def step_managers(spool: Path) -> Iterator[psutil.Process]:
    """Yield the slurmstepd processes whose sockets lie below `spool`: those of our nodes."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.name() != "slurmstepd":
                continue
            sockets = [str(socket.laddr) for socket in process.net_connections("unix")]
            if any(address.startswith(f"{spool}/") for address in sockets):
                yield process


def kill_jobs(spool: Path) -> None:
    """Kill -9 the jobs of nodes with all that they started, as a power cut does."""
    managers = [*step_managers(spool)]
    victims = [child for manager in managers for child in manager.children(recursive=True)]
    for process in (*managers, *victims):
        with suppress(psutil.Error):
            os.kill(process.pid, signal.SIGKILL)
