"""Running the workflow in a folder of its own, as a user would."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(workdir: Path, config: Path, *arguments: str) -> list[str]:
    """Return the call of Snakemake that makes the run of `config` in `workdir`."""
    # Always two cores: another number of threads sums in another order, and bytes are compared.
    here = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--cores", "2"]
    # --configfile takes every word up to the next option, so it does not stand last.
    return [*map(str, here), "--configfile", str(config), "--directory", str(workdir), *arguments]


def prepare(workdir: Path) -> Path:
    """Put the default configuration where Snakemake looks for it."""
    shutil.copytree(ROOT / "config", workdir / "config")
    return workdir


def snakemake(workdir: Path, config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the workflow; its output is in `stdout`, both streams together."""
    return subprocess.run(
        command(workdir, config, *arguments),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )


def planned(workdir: Path, config: Path, *arguments: str) -> dict[str, int]:
    """Return how often each rule would run; empty where there is nothing to do."""
    done = snakemake(workdir, config, "--dry-run", *arguments)
    assert done.returncode == 0, done.stdout
    counts: dict[str, int] = {}
    for line in done.stdout.partition("Job stats:")[2].splitlines()[3:]:
        if not line.strip():
            break
        rule, count = line.split()
        counts[rule] = int(count)
    counts.pop("total", None)
    return counts


def digests(results: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a run."""
    return {
        str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(results.rglob("*"))
        if path.is_file()
    }
