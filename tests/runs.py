"""Running the workflow in a folder of its own, as a user would."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]


Config = Path | tuple[Path, ...]
"""A configuration file, or several, the later over the earlier."""


def command(workdir: Path, config: Config, *arguments: str) -> list[str]:
    """Return the call of Snakemake that makes the run of `config` in `workdir`."""
    # Always two cores: another number of threads sums in another order, and bytes are compared.
    here = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--cores", "2"]
    # --configfile takes every word up to the next option, so it does not stand last.
    files = map(str, config if isinstance(config, tuple) else (config,))
    return [*map(str, here), "--configfile", *files, "--directory", str(workdir), *arguments]


def fault_seed() -> int:
    """Return the seed of what is random on purpose: DEEPSEEMOE_FAULT_SEED, or another each time."""
    return int(os.environ.get("DEEPSEEMOE_FAULT_SEED") or random.SystemRandom().randrange(10**6))


def prepare(workdir: Path) -> Path:
    """Put the default configuration where Snakemake looks for it."""
    shutil.copytree(ROOT / "config", workdir / "config")
    return workdir


def snakemake(workdir: Path, config: Config, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the workflow; its output is in `stdout`, both streams together."""
    return subprocess.run(
        command(workdir, config, *arguments),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )


def planned(workdir: Path, config: Config, *arguments: str) -> dict[str, int]:
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


def newest_log(workdir: Path, rule: str) -> float:
    """Return when the newest log of a rule was begun; 0 where there is none."""
    logs = [*workdir.glob(f"logs/small/{rule}.log"), *workdir.glob(f"logs/small/{rule}/*.log")]
    begun = [0.0]
    for log in logs:
        with suppress(FileNotFoundError):  # Snakemake takes away the one of a job that begins again
            begun.append(log.stat().st_mtime)
    return max(begun)


def kill_within(workdir: Path, config: Config, rule: str, seconds: float) -> bool:
    """Run up to `rule`, kill -9 everything `seconds` into a job of it; return whether it worked."""
    started = time.time()
    process = subprocess.Popen(
        command(workdir, config, "--until", rule),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    while process.poll() is None and newest_log(workdir, rule) < started:
        time.sleep(0.02)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False
