"""Why jobs of SLURM ended, in one line each, out of what Snakemake and SLURM wrote.

Snakemake tells a job's SLURM state in the middle of its output, and where memory is watched by
sampling that state is FAILED, whatever the cause. The cause stands in the log of the job.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_FAILED = re.compile(r"^Error in (?:rule|group) (\S+?):?$")
_JOB = re.compile(r"^ {4}external_jobid: (\S+)")
_LOG = re.compile(r"^ {4}log: (.*?/(\d+)(?:_\d+)?\.log)(?: \(check|,|$)")
_OWN = re.compile(r"ERROR deepseemoe\.runtime\.stage: (rule .*)")
_LEAST = re.compile(r"exceeded memory limit \((\d+) > (\d+)\)")
_MEMORY = re.compile(r"oom[-_ ]kill|out of memory|exceeded (?:job )?memory limit", re.IGNORECASE)


def endings(log: Path) -> list[str]:
    """Return a line for each job that failed for good by Snakemake's log: its rule, and why.

    Of a job that was tried several times the last try is told. Empty where none was SLURM's.
    """
    told: dict[str, str] = {}
    with suppress(OSError):
        for rule, job, place in _failed(log.read_text(errors="replace")):
            told[str(place.parent)] = f"rule {rule}, SLURM job {job}: {_cause(rule, place)}"
    return [*told.values()]


def _failed(text: str) -> Iterator[tuple[str, str, Path]]:
    """Yield rule, SLURM's number and log of each job that Snakemake says failed under SLURM."""
    rule, place = "", None
    for line in text.splitlines():
        if found := _FAILED.match(line):
            rule, place = found[1], None
        elif found := _LOG.match(line):
            place = Path(found[1].split(", ")[-1])
        elif (found := _JOB.match(line)) and rule and place:
            yield rule, found[1], place


def _cause(rule: str, log: Path) -> str:
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return f"it left no log at {log}; SLURM did not start it, or its node is gone"
    if "DUE TO TIME LIMIT" in text:
        return (
            "it took longer than it had asked for; each try has twice as long, and "
            f"--set-resources {rule}:runtime=MINUTES gives more ({log})"
        )
    if _MEMORY.search(text):
        sizes = _LEAST.search(text)
        took = f" ({int(sizes[1]) >> 20} of {int(sizes[2]) >> 20} MiB)" if sizes else ""
        return (
            f"it took more memory than it had asked for{took}; each try has twice as much, and "
            f"--set-resources {rule}:mem_mb=MB gives more ({log})"
        )
    if own := _OWN.findall(text):
        return f"{own[-1].partition(': ')[2]} ({log})"
    if "DUE TO NODE FAILURE" in text:
        return f"its node died ({log})"
    if "CANCELLED AT" in text:
        return f"somebody cancelled it ({log})"
    return f"it failed; what it said stands in {log}"
