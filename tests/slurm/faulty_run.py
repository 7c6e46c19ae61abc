"""Jobs to which things happen, at once and in the background: see faults.smk for the jobs."""

import subprocess
import time
from pathlib import Path

import cluster
from slurm_runs import begin, command, finish, jobs, running_jobs, through_slurm, until

SNAKEFILE = Path(__file__).with_name("faults.smk")


class FaultyRun:
    """A run of the jobs in faults.smk; `begin` does to them what is to be done by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dead = ""
        self._process: subprocess.Popen | None = None
        self._text: str | None = None

    def begin(self) -> None:
        """Start all jobs, cancel one, and let the node of another die; return when it is back."""
        call = command(self.folder, "faults", *through_slurm(), snakefile=SNAKEFILE)
        self._process = begin(self.folder, call)
        (cancelled,) = until(lambda: running_jobs("cancelled"))
        (dying,) = until(lambda: running_jobs("on_dying_node"))
        subprocess.run(["scancel", cancelled], check=True)
        self.dead = next(node for number, node in jobs("%i", "%N") if number == dying)
        time.sleep(1)
        cluster.kill_node(self.dead)
        until(lambda: not cluster.is_up(self.dead))
        until(lambda: dying not in running_jobs("on_dying_node"))
        cluster.start_node(self.dead)
        until(lambda: cluster.is_up(self.dead))

    def finished(self) -> str:
        """Return what Snakemake printed, once all jobs have been made."""
        if self._text is None:
            self._text = finish(self.folder, self._process)
        return self._text

    def kill(self) -> None:
        """End it, whatever its state."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
