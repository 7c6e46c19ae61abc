"""What the test cluster changes outside of its folder, and how that is undone."""

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from shutil import which

ETC = Path("/etc/slurm")
HOSTS = Path("/etc/hosts")
MARK = "# deepseemoe tests/slurm"
PACKAGES = ("slurm-wlm", "munge")
ACCOUNTING_PACKAGES = ("slurmdbd", "mariadb-server")


def cannot_run(folder: Path) -> str | None:
    """Return in one line why no cluster can be started here; None where one can."""
    if os.geteuid():
        return "SLURM's daemons are started as root, and this user is not"
    for name in ("slurm.conf", "gres.conf", "slurmdbd.conf"):
        found = ETC / name
        if found.exists() and found.resolve().parent != folder:
            return f"{found} is there: this machine has a SLURM of its own, which is left alone"
    if missing((*PACKAGES, *ACCOUNTING_PACKAGES)) and not which("apt-get"):
        return f"{', '.join(missing(PACKAGES))} are not installed, and there is no apt-get"
    return None


def missing(packages: Sequence[str]) -> list[str]:
    """Return which Debian packages are not installed."""
    if not which("dpkg-query"):
        return [*packages]
    asked = ["dpkg-query", "--show", "--showformat=${Package} ${Status}\n", *packages]
    lines = subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()
    there = {line.split()[0] for line in lines if line.endswith("install ok installed")}
    return [package for package in packages if package not in there]


def install(packages: Sequence[str]) -> None:
    """Install Debian packages that are missing; raise OSError in one line."""
    wanted = missing(packages)
    if not wanted:
        return
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for call in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *wanted],
    ):
        done = subprocess.run(call, capture_output=True, text=True, env=environment)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise OSError(f"{' '.join(call)}: {''.join(last) or done.returncode}")


def link(files: Sequence[Path]) -> None:
    """Put the configuration where SLURM looks for it.

    SLURM_CONF would not do: the executor of a job takes SLURM's variables out of the environment.
    """
    ETC.mkdir(exist_ok=True)
    for file in files:
        place = ETC / file.name
        if place.is_symlink():
            place.unlink()
        place.symlink_to(file)


def unlink(folder: Path) -> None:
    """Take away the links to files of `folder`."""
    for place in ETC.glob("*.conf"):
        if place.is_symlink() and Path(os.readlink(place)).parent == folder:
            place.unlink()


def name_the_host() -> None:
    """Make the machine's own name stand for 127.0.0.1, where it does not."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        address = ""
    if not address.startswith("127."):
        HOSTS.write_text(f"127.0.0.1 {name} {MARK}\n{HOSTS.read_text()}")


def forget_the_host() -> None:
    """Take our line out of /etc/hosts."""
    text = HOSTS.read_text() if HOSTS.exists() else ""
    if MARK in text:
        # Written in place: a container's /etc/hosts is mounted, and cannot be replaced.
        lines = text.splitlines(keepends=True)
        HOSTS.write_text("".join(line for line in lines if not line.endswith(f"{MARK}\n")))
