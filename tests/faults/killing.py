"""A workflow that is killed again and again: which jobs run, when and how it is killed.

For each rule a moment is drawn, as a share of how long its job took undisturbed, so that a slow
machine is killed at the same points of the work. What runs beside it is killed at whatever point it
has come to. Kinds of kills: everything; Snakemake alone, so that its jobs go on beside those of the
next workflow; one job alone, which Snakemake then starts again.
"""

import os
import random
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
from runs import command

SCRIPT = re.compile(r"/scripts/tmp\w+\.(\w+)\.py$")
LOOK_SECONDS = 0.02
LATEST = 0.6
"""Share of a job, undisturbed: another run of it may be faster."""

TIMES = 2
"""Kills of each rule."""
KINDS = ("all", "all", "snakemake", "job")


class Killer:
    """Runs a workflow in `workdir` to its end, killing on the way; `hits` says in which rules."""

    def __init__(self, workdir: Path, config, durations, *, seed: int, arguments=()):
        self.workdir, self.durations = workdir, durations
        self._command = command(workdir, config, "--retries", "2", *arguments)
        self._random = random.Random(seed)
        self.moments = {rule: [self._moment() for _ in range(TIMES)] for rule in sorted(durations)}
        self.kills: list[tuple[str, str, list[str]]] = []
        self.hits: dict[str, int] = {}
        self._killed: set[psutil.Process] = set()

    def _moment(self):
        return self._random.uniform(0, LATEST), self._random.choice(KINDS)

    def run(self) -> str:
        """Return what the last workflow said, which nobody killed."""
        while True:
            log = self.workdir / f"snakemake-{len(self.kills):02d}.out"
            with open(log, "w") as out:
                process = subprocess.Popen(
                    self._command,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=os.environ | {"HF_HUB_OFFLINE": "1"},
                )
            try:
                is_killed = self._session(process)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            if not is_killed:
                assert process.returncode == 0, log.read_text()[-8000:]
                return log.read_text()

    def _session(self, process) -> bool:
        """Watch one workflow; return whether it was killed."""
        while process.poll() is None:
            for job, rule in jobs_of(process.pid):
                kind = None if job in self._killed else self._due(job, rule)
                if kind and self._kill(process, job, rule, kind):
                    return True
            time.sleep(LOOK_SECONDS)
        return False

    def _due(self, job, rule) -> str | None:
        """Return how to kill now; None where no moment of the rule has come."""
        if not self.moments.get(rule):
            return None
        share, kind = self.moments[rule][0]
        is_due = time.time() - job.create_time() >= share * self.durations[rule]
        return kind if is_due else None

    def _kill(self, process, job, rule, kind) -> bool:
        """Kill; return whether the workflow is dead."""
        beside = [name for _, name in jobs_of(process.pid)]
        if kind == "all":
            os.killpg(process.pid, signal.SIGKILL)
        elif kind == "snakemake":
            process.kill()
        else:
            beside = [rule]
            self._killed.add(job)
            with suppress(psutil.NoSuchProcess):
                job.kill()
        self.kills.append((rule, kind, beside))
        for name in {rule, *beside}:
            self.hits[name] = self.hits.get(name, 0) + 1
        self.moments[rule].pop(0)
        if kind != "job":
            process.wait()
        return kind != "job"


def jobs_of(pid: int) -> list[tuple[psutil.Process, str]]:
    """Return the jobs that a workflow runs now: process and rule."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                match = SCRIPT.search(" ".join(child.cmdline()[1:2]))
                if match:
                    found.append((child, match[1]))
    return found


def durations(workdir: Path) -> dict[str, float]:
    """Return how many seconds a job of each rule took, by its benchmark."""
    found: dict[str, float] = {}
    for path in workdir.glob("benchmarks/*/**/*.tsv"):
        rule = path.relative_to(workdir).parts[2].removesuffix(".tsv")
        found[rule] = float(path.read_text().splitlines()[1].split("\t")[0])
    return found
