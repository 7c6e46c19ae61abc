"""What the workflow itself costs: planning, and a job that does nothing, at a number of shards.

    python benchmarks/workflow_overhead.py 100 1000 5000      plan only
    python benchmarks/workflow_overhead.py 100 --run           and run every job, with empty scripts
    python benchmarks/workflow_overhead.py 5000 --seconds 120           and run jobs for so long
    python benchmarks/workflow_overhead.py 5000 --shards-per-job 10
    python benchmarks/workflow_overhead.py 5000 --seconds 120 --weighed 5000   as without the bound

The real Snakefile and rules are taken, with scripts that only make their outputs. CPU seconds are
printed beside wall time, since other processes do not lengthen them.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
SHARD_TOKENS = 2_048
STUB = """
from pathlib import Path
for output in map(Path, snakemake.output):
    if output.suffix in ("", ".zarr"):
        output.mkdir(parents=True, exist_ok=True)
    else:
        output.write_text("")
"""


class Cost(NamedTuple):
    """Seconds of one call of Snakemake."""

    wall: float
    cpu: float


def main() -> None:
    """Print one line for each number of shards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", nargs="+", type=int)
    parser.add_argument("--shards-per-job", type=int, default=1)
    parser.add_argument("--run", action="store_true", help="run all jobs, and plan once more")
    parser.add_argument("--seconds", type=float, help="run jobs for so long, then stop")
    parser.add_argument("--weighed", type=int, help="jobs that may start, weighed at once")
    options = parser.parse_args()
    for n_shards in options.shards:
        with tempfile.TemporaryDirectory() as folder:
            workdir = prepared(Path(folder), n_shards, options.shards_per_job)
            plan = timed(workdir, "--dry-run")
            line = f"{n_shards:5d} shards: plan {plan.wall:6.1f} s ({plan.cpu:.1f} s of CPU)"
            weighed = ["--scheduler-subsample", str(options.weighed)] if options.weighed else []
            if options.run:
                line += after_a_run(workdir, *weighed)
            elif options.seconds:
                line += for_a_while(workdir, options.seconds, *weighed)
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def after_a_run(workdir: Path, *arguments: str) -> str:
    """Run all jobs; return what each cost, and what it costs to see that nothing is to be done."""
    run = timed(workdir, *arguments)
    n_jobs = sum(1 for _ in workdir.glob("logs/**/*.log")) or n_metadata(workdir)
    again = timed(workdir, "--dry-run")
    return (
        f", run {run.wall:.0f} s ({1000 * run.wall / n_jobs:.0f} ms a job of {n_jobs}, "
        f"{1000 * run.cpu / n_jobs:.0f} ms of CPU), nothing to do {again.wall:.1f} s "
        f"({again.cpu:.1f} s of CPU)"
    )


def for_a_while(workdir: Path, seconds: float, *arguments: str) -> str:
    """Run jobs for some seconds from the first that ends; return what each took."""
    began, ends = time.monotonic(), list[float]()
    with subprocess.Popen(
        command(*arguments),
        cwd=workdir,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as run:
        for line in run.stdout or ():
            if "Finished jobid" in line:
                ends.append(time.monotonic())
                if ends[-1] - ends[0] > seconds:
                    run.kill()
                    break
    if len(ends) < 2:
        raise SystemExit("no two jobs ended")
    a_job = 1000 * (ends[-1] - ends[0]) / (len(ends) - 1)
    return f", first job done after {ends[0] - began:.0f} s, then {a_job:.0f} ms a job"


def n_metadata(workdir: Path) -> int:
    """Return how many jobs left a benchmark file."""
    return sum(1 for path in workdir.glob("benchmarks/**/*.tsv") if path.is_file())


def prepared(folder: Path, n_shards: int, shards_per_job: int) -> Path:
    """Put a copy of the workflow with empty scripts, and a configuration, into a folder."""
    for name in ("Snakefile", "rules", "workflow", "envs", "profiles", "config"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    (folder / "src").symlink_to(ROOT / "src")
    for script in (folder / "workflow/scripts").glob("*.py"):
        script.write_text(STUB)
    shares = {"train": 90, "select": 2, "test": 8}
    n_tokens = {s: max(n_shards * share // 100, 1) * SHARD_TOKENS for s, share in shares.items()}
    changes = {
        "name": "overhead",
        "corpus": {"n_tokens": n_tokens, "sequence_length": 128, "shard_tokens": SHARD_TOKENS},
        "activations": {"shards_per_job": shards_per_job},
    }
    (folder / "overhead.yaml").write_text(yaml.safe_dump(changes))
    return folder


def command(*arguments: str) -> list[str]:
    """Return a call of Snakemake on what `prepared` made."""
    call = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    return [*call, "--configfile", "overhead.yaml"]


def timed(workdir: Path, *arguments: str) -> Cost:
    """Return what a call of Snakemake costs; raise where it fails."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        command("--quiet", "all", *arguments),
        cwd=workdir,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stdout[-3000:])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, cpu)


if __name__ == "__main__":
    main()
