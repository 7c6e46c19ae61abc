"""Running the workflow through SLURM, by the profile that users have, and without it."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROFILE = ROOT / "profiles/slurm"
SMALL = (ROOT / "tests/config/small.yaml", ROOT / "tests/config/slurm.yaml")

# Short jobs share a job of SLURM, as docs/slurm.md advises. Those of a group that could run side by
# side ask for the sum of their GPUs, so GPU rules are in chains only.
GROUPS = {
    "text": ("prepare_tokenizer", "pack_corpus", "train_model"),
    "routing": ("tabulate_routing", "measure_specialisation", "trace_paths"),
    "encoding": ("encode_features", "collect_examples"),
    "reads": ("measure_effects", "map_reads"),
    "labels": ("label_features", "label_experts"),
    "report": ("draw_figures", "write_summary"),
}
COMPONENTS = {"routing": 3}


def command(workdir: Path, *arguments: str, snakefile: Path = ROOT / "Snakefile") -> list[str]:
    """Return the call of Snakemake that makes a run in `workdir`."""
    call = [sys.executable, "-m", "snakemake", "--snakefile", snakefile, "--directory", workdir]
    return [*map(str, call), *arguments]


def through_slurm(*, grouped: bool = False) -> list[str]:
    """Return the options of a run through SLURM: the profile, and less patience than it has."""
    options = ["--workflow-profile", str(PROFILE), "--latency-wait", "5"]
    options += ["--slurm-init-seconds-before-status-checks", "1"]
    if grouped:
        options += ["--groups", *(f"{rule}={name}" for name in GROUPS for rule in GROUPS[name])]
        options += ["--group-components", *(f"{name}={n}" for name, n in COMPONENTS.items())]
    return options


def environment(workdir: Path) -> dict[str, str]:
    """Return the environment of a run: fake GPUs, two, with locks of its own."""
    ours = {"DEEPSEEMOE_FAKE_GPUS": "2", "DEEPSEEMOE_LOCKS": str(workdir / "locks")}
    source = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    return os.environ | ours | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": source}


def begin(workdir: Path, call: list[str]) -> subprocess.Popen:
    """Start a run; what it prints goes to `screen` in its folder."""
    if not (workdir / "config").exists():
        (workdir / "config").mkdir()
        (workdir / "config/config.yaml").write_text((ROOT / "config/config.yaml").read_text())
    with (workdir / "screen").open("a") as screen:
        return subprocess.Popen(
            call,
            stdout=screen,
            stderr=subprocess.STDOUT,
            env=environment(workdir),
            cwd=workdir,
            preexec_fn=_interruptible,
        )


def _interruptible() -> None:
    """Hear Ctrl-C, also where a CI began its steps in the background and so with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(workdir: Path, process: subprocess.Popen, seconds: float = 1500) -> str:
    """Wait for a run and return what it printed; fail where it failed."""
    try:
        code = process.wait(seconds)
    finally:
        process.kill()
        process.wait()
    text = (workdir / "screen").read_text()
    assert code == 0, text[-8000:]
    return text


def until(what, seconds: float = 300.0):
    """Return what a function returns, once that is something."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.2)
    return found


def jobs(*columns: str, states: str = "all") -> list[list[str]]:
    """Return columns of squeue, as %i, for each job that SLURM remembers."""
    call = ["squeue", "-h", "--states", states, "-o", "|".join(columns)]
    lines = subprocess.run(call, capture_output=True, text=True, check=True).stdout.splitlines()
    return [[field.strip() for field in line.split("|")] for line in lines]


def running_jobs(rule: str) -> list[str]:
    """Return the numbers of the jobs of a rule or group that run."""
    found = jobs("%i", "%k", states="RUNNING")
    return [number for number, comment in found if comment.startswith(f"rule_{rule}")]


def digests(results: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a run but its locks."""
    return {
        str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(results.rglob("*"))
        if path.is_file() and ".locks" not in path.parts
    }


def begin_local(workdir: Path) -> subprocess.Popen:
    """Start the small run on this machine alone."""
    return begin(workdir, [*command(workdir, "--cores", "2"), *_small()])


def whole_run(workdir: Path) -> Path:
    """Make the small run by jobs of SLURM; kill its Snakemake once, while jobs run, and go on."""
    call = [*command(workdir, *through_slurm(grouped=True)), *_small()]
    process = begin(workdir, call)
    until(lambda: running_jobs("cache_activations"), 600)
    process.kill()
    process.wait()
    assert running_jobs("cache_activations"), "jobs go on without their Snakemake"
    finish(workdir, begin(workdir, [*command(workdir, "--unlock"), *_small()]))
    finish(workdir, begin(workdir, call))
    return workdir


def _small() -> list[str]:
    return ["--configfile", *map(str, SMALL)]
