"""What a job asks the scheduler for: memory and time; both double each time that it is tried again.

On one machine nobody asks, unless `--resources mem_mb=N` says how much there is. SLURM ends a job
that takes more. Another value is given by `--set-resources RULE:mem_mb=N` or in the profile.
"""

from deepseemoe.plan.ram import Ram
from deepseemoe.runtime.endings import endings

RAM = Ram(RUN)
# SLURM's executor runs a Snakemake in the job and another in its step; measured: 171 and 163 MB.
EXECUTOR_MB = 500


def memory(name, least_mb):
    """Return the MB that a job asks for, by the sizes of its run; at least `least_mb`."""

    def needed(wildcards, attempt):
        return (max(least_mb, RAM.of(name)) + EXECUTOR_MB) * 2 ** (attempt - 1)

    return needed


def minutes(first):
    """Return the minutes that a job asks for: `first`, doubled each time it is tried again."""

    def needed(wildcards, attempt):
        return first * 2 ** (attempt - 1)

    return needed


def tell_endings(logs):
    """Print why jobs of SLURM failed, one line each; nothing on one machine."""
    for line in (line for log in logs for line in endings(Path(log))):
        print(line, file=sys.stderr)
